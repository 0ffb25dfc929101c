"""Random-weight checkpoints and their exports, made once and kept in a folder."""

import json
import os
import subprocess

import torch
import transformers

# Wide enough that every layer changes its input visibly, as in trained models; at the usual 0.02 an encoder of random
# weights is nearly the identity, and an error in a layer would hardly show in the output.
INITIALIZER_RANGE = 0.05


def checkpoint(model, folder):
    """The folder of the checkpoint (`config.json`, `model.safetensors`), written when it is not there."""
    path = folder / model.name
    if not (path / "model.safetensors").exists():
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=model.vocabulary,
            hidden_size=model.hidden,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            intermediate_size=model.ffn,
            max_position_embeddings=model.positions,
            initializer_range=INITIALIZER_RANGE,
        )
        network = transformers.BertModel(config, add_pooling_layer=False)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0, INITIALIZER_RANGE)
        network.save_pretrained(path)
    return path


def network(path):
    """The checkpoint as a PyTorch module for inference, f32."""
    return transformers.BertModel.from_pretrained(path, add_pooling_layer=False, dtype=torch.float32).eval()


class LastHiddenState(torch.nn.Module):
    """The one output that is measured."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, attention_mask=None):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)[0]


def torch_export(path, masked):
    """The checkpoint through PyTorch's ONNX exporter, batch and length free."""
    target = path / ("torch-masked.onnx" if masked else "torch.onnx")
    if not target.exists():
        names = ["input_ids", "attention_mask"] if masked else ["input_ids"]
        example = tuple(torch.ones((2, 8), dtype=torch.int64) for _ in names)
        dimensions = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
        program = torch.onnx.export(
            LastHiddenState(network(path)).eval(),
            example,
            dynamo=True,
            opset_version=18,
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_shapes=dict.fromkeys(names, dimensions),
        )
        program.save(str(target), external_data=False)
    return target


def bertha_export(path, bertha):
    """The checkpoint through `bertha export`."""
    target = path / "bertha.onnx"
    if not target.exists():
        subprocess.run([bertha, "export", path, "-o", target], check=True, stdout=subprocess.DEVNULL)
    return target


def bertha_engine(source, target, bertha, precision, isa):
    """`source`, a checkpoint or an ONNX file, as an engine; made anew for another build of Bertha."""
    stamp = target.with_suffix(".json")
    made_by = {"bertha": str(bertha), "modified": bertha.stat().st_mtime_ns}
    if not target.exists() or not stamp.exists() or json.loads(stamp.read_text()) != made_by:
        command = [bertha, "build", source, "--precision", precision, "-o", target]
        environment = os.environ | ({"BERTHA_ISA": isa} if isa else {})
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        stamp.write_text(json.dumps(made_by))
    return target
