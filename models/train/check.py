"""Load the model folder with transformers: it must compute the same logits as the recipe's own model."""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import BertForMaskedLM
from transformers.utils.quantization_config import CompressedTensorsConfig

import quantize
from common import CLS, SEP, VOCAB_SIZE
from data import MAX_SEGMENT
from model import MaskedLM, from_hugging_face
from train import PARIS

TOLERANCE = 1e-4  # relative, float32 against float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder written by export.py")
    folder = parser.parse_args().model
    theirs, info = BertForMaskedLM.from_pretrained(
        folder, output_loading_info=True, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    trouble = {kind: names for kind, names in info.items() if names}
    if trouble:
        raise SystemExit(f"{folder}: transformers reports {trouble}")
    ours = MaskedLM()
    from_hugging_face(ours, quantize.load(folder / "model.safetensors"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = torch.tensor([CLS, *tokenizer.encode(PARIS, add_special_tokens=False).ids, SEP])
    with torch.no_grad():
        expected = theirs.eval().float()(ids[None]).logits[0]
        cu = torch.tensor([0, len(ids)], dtype=torch.int32)
        found = ours.logits(ours.encode(ids, torch.arange(len(ids)), cu, MAX_SEGMENT))[:, :VOCAB_SIZE]
    difference = ((found - expected).norm() / expected.norm()).item()
    print(f"relative difference of the logits: {difference:.1e}")
    if not difference < TOLERANCE:
        raise SystemExit(f"transformers computes other logits from {folder}")


if __name__ == "__main__":
    main()
