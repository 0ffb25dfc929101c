"""Write the model folder: int8 weights, config, tokenizer, figures and the loss curve.

Evaluates the trained weights and the int8 ones on the same held-out batches and the cloze table.
"""

import argparse
import csv
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import quantize
from common import HEADS, HIDDEN, INTERMEDIATE, LAYER_NORM_EPS, LAYERS, POSITIONS, VOCAB_SIZE
from evaluate import cloze, fill, held_out_batches, held_out_scores
from model import MaskedLM, from_hugging_face
from train import PARIS, read_parts

MAX_BYTES = 24_000_000  # of the whole folder
HERE = Path(__file__).parent

CONFIG = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": LAYER_NORM_EPS,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "dtype": "float32",
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear", "Embedding"],
                "format": "int-quantized",
                "weights": {
                    "num_bits": 8,
                    "type": "int",
                    "symmetric": True,
                    "strategy": "channel",
                    "group_size": None,
                    "dynamic": False,
                },
                "input_activations": None,
                "output_activations": None,
            }
        },
        # The decoder is tied to the word embeddings and has no tensors of its own.
        "ignore": ["cls.predictions.decoder", *quantize.NOT_QUANTIZED],
        "kv_cache_scheme": None,
    },
}


def write_tokenizer(source: Path, target: Path) -> None:
    """Copy tokenizer.json without whitespace and without the source's truncation and padding."""
    content = json.loads(source.read_text())
    content["truncation"] = content["padding"] = None
    target.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def write_curve(log: Path, target: Path) -> None:
    """Training loss against seconds, as a small SVG."""
    rows = [(float(r["seconds"]), float(r["loss"])) for r in csv.DictReader(log.open())]
    step = max(1, len(rows) // 240)
    points = [
        (rows[min(i + step // 2, len(rows) - 1)][0], sum(loss for _, loss in part) / len(part))
        for i in range(0, len(rows), step)
        for part in [rows[i : i + step]]
    ]
    width, height, left, bottom = 640, 320, 48, 36
    longest, low, high = max(x for x, _ in points), 2.5, 6.0

    def place(seconds, loss):
        x = left + (width - left - 10) * seconds / longest
        y = 10 + (height - bottom - 10) * (high - min(loss, high)) / (high - low)
        return f"{x:.1f},{y:.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for i in range(8):
        loss = low + i * (high - low) / 7
        x, y = place(0, loss).split(",")
        lines.append(
            f'<path d="M{x},{y}H{width - 10}" stroke="#ddd"/><text x="8" y="{float(y) + 4:.0f}">{loss:.1f}</text>'
        )
    for seconds in range(0, int(longest) + 1, 200):
        x, y = place(seconds, low).split(",")
        lines.append(f'<text x="{x}" y="{float(y) + 16:.0f}" text-anchor="middle">{seconds}</text>')
    path = " ".join(place(*p) for p in points)
    lines.append(f'<polyline points="{path}" fill="none" stroke="#06c" stroke-width="1.5"/>')
    lines.append(f'<text x="{width // 2}" y="{height - 4}" text-anchor="middle">seconds of training</text>')
    lines.append(
        f'<text x="{width - 16}" y="28" text-anchor="end">training loss (nats per masked wordpiece)</text></svg>'
    )
    target.write_text("\n".join(lines) + "\n")


def scores(tensors: dict[str, torch.Tensor], held_out: dict, tokenizer: Tokenizer) -> dict:
    model = MaskedLM()
    from_hugging_face(model, tensors)
    return {
        "held_out": held_out_scores(model, held_out, "cpu"),
        "cloze": cloze(model, tokenizer, HERE / "cloze.jsonl", "cpu"),
        "paris": fill(model, tokenizer, PARIS, 10, "cpu"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", type=Path, required=True, help="folder written by train.py")
    parser.add_argument("--ids", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out-tokens", type=int, default=12 * 16384)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    trained = read_parts(args.trained, "trained")
    int8 = quantize.quantize(trained)
    save_file(int8, args.out / "model.safetensors", metadata={"format": "pt"})
    (args.out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    write_tokenizer(args.tokenizer, args.out / "tokenizer.json")
    write_curve(args.trained / "log.csv", args.out / "loss.svg")

    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    vocabulary = [tokenizer.id_to_token(i) for i in range(VOCAB_SIZE)]
    held_out = held_out_batches(args.ids, vocabulary, args.held_out_tokens)
    figures = {
        "training": json.loads((args.trained / "training.json").read_text()),
        "trained_weights": scores(trained, held_out, tokenizer),
        "int8_weights": scores(quantize.load(args.out / "model.safetensors"), held_out, tokenizer),
    }
    before, after = (figures[k]["held_out"]["loss"] for k in ("trained_weights", "int8_weights"))
    figures["int8_loss_increase_percent"] = 100 * (after / before - 1)
    (args.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(json.dumps({k: v for k, v in figures.items() if k != "training"}))
    print(f"{size} bytes in {args.out}")
    if size > MAX_BYTES:
        raise SystemExit(f"the folder is larger than {MAX_BYTES} bytes")


if __name__ == "__main__":
    main()
