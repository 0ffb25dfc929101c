"""Writes tiny random checkpoints of every family and head, each with the answers that transformers gives.

    python generate_hf.py [FOLDER]            # every family and head, by default into a folder of the system's own
    python generate_hf.py --committed         # the few that are kept in fixtures/hf
    BERTHA_HF_FIXTURES=FOLDER cargo test -p bertha-import --test hf_import

A checkpoint's folder has what `save_pretrained` writes and `expected.safetensors`: the ragged inputs as the graph takes
them, and for each output the rows of real tokens, computed in float64 from the weights as stored.
Needs torch and transformers; made with transformers 5.23 and torch 2.11.
"""

import sys
import tempfile
from pathlib import Path

import torch
import transformers as tf
from safetensors.torch import save_file

LENGTHS = [5, 1, 9, 3]
VOCAB = 99
COMMITTED = {
    "bert_encoder", "bert_masked_lm_untied", "bert_pretraining", "bert_sequence_classification",
    "distilbert_masked_lm", "distilbert_question_answering",
    "roberta_masked_lm", "roberta_sequence_classification",
    "electra_masked_lm", "electra_pretraining",
    "mpnet_encoder", "mpnet_masked_lm",
    "albert_pretraining", "albert_token_classification",
}

BERT = dict(
    vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
    max_position_embeddings=24, layer_norm_eps=3e-5,
)
HEADS = {
    "encoder": "Model", "masked_lm": "ForMaskedLM", "pretraining": "ForPreTraining",
    "next_sentence": "ForNextSentencePrediction", "sequence_classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification", "question_answering": "ForQuestionAnswering",
}
COMMON = ["encoder", "masked_lm", "sequence_classification", "token_classification", "question_answering"]
FAMILIES = {
    "bert": ("Bert", dict(BERT, type_vocab_size=2), COMMON + ["pretraining", "next_sentence"]),
    "distilbert": (
        "DistilBert",
        dict(vocab_size=VOCAB, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=24),
        COMMON,
    ),
    "roberta": ("Roberta", dict(BERT, type_vocab_size=1, max_position_embeddings=26), COMMON),
    "xlmroberta": ("XLMRoberta", dict(BERT, type_vocab_size=1, hidden_act="gelu_new"), ["masked_lm", "encoder"]),
    "camembert": ("Camembert", dict(BERT, type_vocab_size=1, hidden_act="relu"), ["masked_lm"]),
    "electra": ("Electra", dict(BERT, embedding_size=12, type_vocab_size=2), COMMON + ["pretraining"]),
    "electrasame": ("Electra", dict(BERT, embedding_size=16, type_vocab_size=2, hidden_act="silu"), ["encoder"]),
    "mpnet": ("MPNet", dict(BERT, max_position_embeddings=26), COMMON),
    "albert": (
        "Albert",
        dict(BERT, embedding_size=12, num_hidden_layers=3, num_hidden_groups=2, inner_group_num=2, type_vocab_size=2),
        COMMON + ["pretraining"],
    ),
}
# The names of outputs that differ between the heads of transformers and the graphs.
OUTPUTS = {
    "last_hidden_state": "last_hidden_state", "pooler_output": "pooler_output", "logits": "logits",
    "prediction_logits": "logits", "seq_relationship_logits": "seq_relationship_logits",
    "sop_logits": "seq_relationship_logits", "start_logits": "start_logits", "end_logits": "end_logits",
}


def randomise(model):
    """Every parameter of a size that shows: no unit gammas, no zero biases."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.3)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)


def inputs_for(model, lengths, token_types):
    longest = max(lengths)
    pad = model.config.pad_token_id
    ids = torch.full((len(lengths), longest), pad)
    mask = torch.zeros_like(ids)
    types = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, VOCAB, (length,))
        types[row, :length] = torch.randint(0, 2, (length,))
        mask[row, :length] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    if token_types:
        inputs["token_type_ids"] = types
    return inputs


def write(folder, stem, head, config_fields, lengths=LENGTHS, seed=0, **save):
    torch.manual_seed(seed)
    config = getattr(tf, f"{stem}Config")(num_labels=2 if head in ("question_answering", "pretraining") else 3, **config_fields)
    cls = getattr(tf, f"{stem}{HEADS[head]}")
    model = cls(config)
    randomise(model)
    model.save_pretrained(folder, **save)
    model = cls.from_pretrained(folder, attn_implementation="eager").double().eval()

    token_types = stem in ("Bert", "Electra", "Albert")
    inputs = inputs_for(model, lengths, token_types)
    with torch.no_grad():
        outputs = model(**inputs)
    mask = inputs["attention_mask"].bool()
    flat = lambda tensor: tensor[mask].to(torch.int32).contiguous()
    after_pad = model.config.pad_token_id + 1 if stem in ("Roberta", "XLMRoberta", "Camembert", "MPNet") else 0
    positions = torch.arange(mask.shape[1]).expand(mask.shape) + after_pad
    expected = {
        "input_ids": flat(inputs["input_ids"]),
        "position_ids": flat(positions),
        "cu_seqlens": torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32),
    }
    if token_types or stem in ("Roberta", "XLMRoberta", "Camembert"):
        types = inputs.get("token_type_ids", torch.zeros_like(inputs["input_ids"]))
        expected["token_type_ids"] = flat(types)
    for name, ours in OUTPUTS.items():
        value = outputs.get(name)
        if value is None:
            continue
        if head == "next_sentence":
            ours = "seq_relationship_logits"  # the same tensor has this name in the pretraining head
        per_token = value.dim() >= 2 and tuple(value.shape[:2]) == tuple(mask.shape)
        expected[f"expected.{ours}"] = (value[mask] if per_token else value).contiguous()
    save_file(expected, f"{folder}/expected.safetensors")


def main():
    committed = "--committed" in sys.argv
    names = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    root = Path(names[0]) if names else Path(tempfile.mkdtemp(prefix="bertha-hf-"))
    if committed:
        root = Path(__file__).parent / "fixtures" / "hf"
    cases = [
        (f"{family}_{head}", stem, head, fields, {})
        for family, (stem, fields, heads) in FAMILIES.items()
        for head in heads
    ]
    bert, mpnet = FAMILIES["bert"], FAMILIES["mpnet"]
    cases += [
        ("bert_masked_lm_untied", "Bert", "masked_lm", dict(bert[1], tie_word_embeddings=False), {}),
        ("bert_encoder_sharded", "Bert", "encoder", bert[1], {"max_shard_size": "6KB"}),
        # Long enough to reach every bucket of relative distance.
        ("mpnet_encoder_long", "MPNet", "encoder", dict(mpnet[1], max_position_embeddings=402), {"lengths": [400, 130]}),
    ]
    for seed, (name, stem, head, fields, extra) in enumerate(cases):
        if committed and name not in COMMITTED:
            continue
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, stem, head, fields, seed=seed, **extra)
        print(folder)


if __name__ == "__main__":
    main()
