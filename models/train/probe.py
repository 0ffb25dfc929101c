"""Check the device's fast path and compare settings in a few short runs, before a long one.

Prints: the loss of the same batch through the fast path and through the float32 reference; each setting's speed and
held-out figures after the same seconds of a whole schedule; and where the time of a step goes.
"""

import argparse
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

import quantize
from common import VOCAB_SIZE
from evaluate import held_out_batches
from model import MaskedLM, from_hugging_face
from train import Settings, Trainer, figures

VARIANTS = {
    "muon 1e-3": Settings(peak_rate=1e-3),
    "muon 2e-3": Settings(peak_rate=2e-3),
    "adamw 1e-3": Settings(peak_rate=1e-3, muon=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--tokens", type=int, default=Settings.tokens)
    args = parser.parse_args()
    begun = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = [tokenizer.id_to_token(i) for i in range(VOCAB_SIZE)]
    start = quantize.load(args.start)
    trainer = Trainer(Settings(tokens=args.tokens), args.ids, vocabulary, device)
    held_out = held_out_batches(args.ids, vocabulary, 6 * 16384)
    from_hugging_face(trainer.model, start)
    trainer.start_head()
    print(f"data ready at {time.perf_counter() - begun:.0f} s", flush=True)

    reference = MaskedLM().to(device)
    reference.load_state_dict(trainer.model.state_dict())
    with torch.no_grad():
        for kind in ("sentences", "articles"):
            ids, positions, cu, index, labels, filled = (x.to(device) for x in held_out[kind][0])
            fast, exact = (
                m.losses(ids, positions, cu, 512, index, labels)[0] * filled for m in (trainer.model, reference)
            )
            print(
                f"{kind}: relative difference of the losses {((fast - exact).norm() / exact.norm()).item():.2e}",
                flush=True,
            )
    del reference
    trainer.warm()
    print(f"compiled at {time.perf_counter() - begun:.0f} s", flush=True)

    for name, settings in VARIANTS.items():
        settings.tokens = args.tokens
        from_hugging_face(trainer.model, start)
        trainer.start_head()
        trainer.restart(settings)
        trainer.warm()
        trainer.run(args.seconds, args.seconds)
        result = figures(trainer, held_out, tokenizer)
        print(name, {k: result[k] for k in ("step", "tokens_per_second", "held_out", "cloze")}, flush=True)
        print(
            [word for word, _ in result["paris"]],
            [row[-1] for row in trainer.log[:: max(1, len(trainer.log) // 6)]],
            flush=True,
        )

    if device.type == "cuda":
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
        ) as profile:
            for _ in range(3):
                trainer.one_step(0.0)
            trainer.wait()
        print(
            profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=22, max_name_column_width=60)[:6000]
        )
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
