"""Writes tiny checkpoints and their ONNX exports beside each other, for the test that both end as the same graph.

Needs torch, transformers, onnx and onnxscript. Run it in this folder: python make_pairs.py
"""

import json
import os
import pathlib

import onnx
import torch
import transformers as t

HERE = pathlib.Path(__file__).parent
SIZES = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
             vocab_size=20, max_position_embeddings=16)
DISTIL = dict(dim=8, n_layers=1, n_heads=2, hidden_dim=12, vocab_size=20, max_position_embeddings=16)
ROBERTA = dict(type_vocab_size=1, pad_token_id=1)
TYPED = ["input_ids", "attention_mask", "token_type_ids"]
PLAIN = ["input_ids", "attention_mask"]
MODELS = {
    "bert-masked-lm": (t.BertForMaskedLM, t.BertConfig(**SIZES), TYPED, ["logits"]),
    "bert-question-answering": (t.BertForQuestionAnswering, t.BertConfig(**SIZES), TYPED,
                                ["start_logits", "end_logits"]),
    "roberta-classifier": (t.RobertaForSequenceClassification, t.RobertaConfig(**SIZES, **ROBERTA), PLAIN,
                           ["logits"]),
    "distilbert-masked-lm": (t.DistilBertForMaskedLM, t.DistilBertConfig(**DISTIL), PLAIN, ["logits"]),
    "electra-discriminator": (t.ElectraForPreTraining, t.ElectraConfig(**SIZES, embedding_size=4), TYPED,
                              ["logits"]),
    "sentence": (t.BertModel, t.BertConfig(**SIZES), TYPED, ["last_hidden_state", "sentence_embedding"]),
    "mpnet": (t.MPNetModel, t.MPNetConfig(**SIZES, pad_token_id=1), PLAIN, ["last_hidden_state", "pooler_output"]),
}
EXPORTS = [("eager", "legacy", 11), ("sdpa", "legacy", 17), ("eager", "dynamo", 18), ("sdpa", "dynamo", 23)]


class Positional(torch.nn.Module):
    """The exporters want tensors in and tensors out."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        inputs = [input_ids, attention_mask, token_type_ids]
        return self.model(**dict(zip(self.names, inputs)), return_dict=True).to_tuple()


class Sentence(Positional):
    """Hidden states, and their mean over the tokens divided by its norm."""

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        hidden = super().forward(input_ids, attention_mask, token_type_ids)[0]
        mask = attention_mask.unsqueeze(-1).expand(hidden.size()).to(hidden.dtype)
        mean = torch.sum(hidden * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
        return hidden, torch.nn.functional.normalize(mean, p=2, dim=1)


def describe_sentence(folder, width):
    """The files by which sentence-transformers says how it pools."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
               for index, (path, kind) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2))


def strip(path):
    """Removes what the exporter says of itself: stack traces are most of the file."""
    model = onnx.load(path)
    graph = model.graph
    for part in [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info]:
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    del graph.value_info[:]
    onnx.save(model, path)


for name, (kind, config, inputs, outputs) in MODELS.items():
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    for attention, exporter, opset in EXPORTS:
        if attention == "sdpa" and not kind._supports_sdpa:
            continue
        torch.manual_seed(0)
        model = kind._from_config(config, attn_implementation=attention).eval()
        wrapper = Positional
        if name == "sentence":
            model.pooler, wrapper = None, Sentence
            describe_sentence(folder, config.hidden_size)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                one = 1.0 if "norm" in parameter_name.lower() and "weight" in parameter_name else 0.0
                parameter.copy_(torch.randn_like(parameter) * 0.2 + one)
        model.tie_weights()
        if not (folder / "model.safetensors").exists():
            model.save_pretrained(folder)
        ids = torch.randint(2, 20, (2, 7))
        mask = torch.ones_like(ids)
        mask[1, 4:] = 0
        args = (ids, mask, torch.zeros_like(ids))[: len(inputs)]
        path = folder / f"{attention}-{exporter}-{opset}.onnx"
        common = dict(input_names=inputs, output_names=outputs, opset_version=opset)
        if exporter == "legacy":
            axes = {name: {0: "batch", 1: "seq"} for name in inputs}
            torch.onnx.export(wrapper(model, inputs).eval(), args, path, dynamic_axes=axes, dynamo=False, **common)
        else:
            shapes = tuple({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")} for _ in inputs)
            torch.onnx.export(wrapper(model, inputs).eval(), args, path, dynamic_shapes=shapes, dynamo=True,
                              external_data=False, verbose=False, **common)
        strip(path)
        print(path, os.path.getsize(path))
