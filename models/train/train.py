"""Train the masked language model within a budget of seconds.

The learning rate follows the share of the budget that has been used (warm-up, then linear decay to zero), so training
ends on time on any device. It can be cut off and resumed: `--work` holds a checkpoint with the optimizer's state, and
`--out` the weights alone, as float16 safetensors in parts of at most 16 MiB, the training log and the figures.
"""

import argparse
import csv
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import quantize
from common import VOCAB_SIZE
from data import (
    MAX_SEGMENT,
    Segments,
    choose_words,
    compact,
    continuation_table,
    hide,
    lay_out,
    load_training,
)
from evaluate import cloze, fill, held_out_batches, held_out_scores
from model import MaskedLM, from_hugging_face, to_hugging_face
from optim import Optimizer

HERE = Path(__file__).parent
PARIS = "The capital of France, [MASK], contains the Eiffel Tower."
PART_BYTES = 16_000_000
LOG_EVERY = 20  # steps


@dataclass
class Settings:
    tokens: int = 131072  # ids in a batch
    sentence_share: float = 0.35  # of the ids, in segments of one sentence
    peak_rate: float = 2e-3
    warm_up: float = 0.02  # share of the budget
    muon: bool = True
    # Each segment has its own rate of masking, uniform between these; the mean is 0.16.
    least_masked: float = 0.04
    most_masked: float = 0.28
    mask_share: float = 0.9  # of the chosen ids, replaced by [MASK]; then by a random id; the rest are kept
    random_share: float = 0.05
    seed: int = 7


class Trainer:
    """Model, data and optimizer on one device."""

    def __init__(self, settings: Settings, ids: Path, vocabulary: list[str], device: torch.device):
        self.settings, self.device = settings, device
        cuda = device.type == "cuda"
        torch.manual_seed(settings.seed)
        self.model = MaskedLM(torch.bfloat16 if cuda else torch.float32).to(device)
        self.corpus = load_training(ids)
        self.flat = torch.from_numpy(self.corpus.ids.astype(np.int32)).to(device)
        self.continues = continuation_table(vocabulary).to(device)
        self.weights = torch.from_numpy(np.load(ids / "word-weights.npy")).to(device)
        self.loss = torch.compile(self.model.training_loss, dynamic=False) if cuda else self.model.training_loss
        self.step, self.seconds, self.tokens_seen, self.log = 0, 0.0, 0, []
        self.restart(settings)

    def restart(self, settings: Settings) -> None:
        """New optimizer and data order; the weights are the caller's to set."""
        self.settings = settings
        self.segments = Segments(self.corpus, settings.tokens, settings.sentence_share, settings.seed)
        self.optimizer = Optimizer(self.model, settings.muon, compiled=self.device.type == "cuda")
        self.step, self.seconds, self.tokens_seen, self.log = 0, 0.0, 0, []

    @torch.no_grad()
    def start_head(self) -> None:
        """A new head begins with the words' frequencies as its bias."""
        counts = np.bincount(self.corpus.ids, minlength=VOCAB_SIZE)
        bias = np.log((counts + 0.5) / counts.sum())
        self.model.decoder_bias[:VOCAB_SIZE] = torch.from_numpy(bias - bias.mean()).to(self.model.decoder_bias)

    def batch(self) -> tuple[torch.Tensor, ...]:
        """Draw, lay out and mask one batch: the arguments of `training_loss`."""
        s, device = self.settings, self.device
        begin, length, alone = (torch.from_numpy(x).to(device) for x in self.segments.draw())
        batch = lay_out(self.flat, begin, length, s.tokens)
        segments = len(length) + 1
        rate = torch.empty(segments, device=device).uniform_(s.least_masked, s.most_masked)
        chance = (rate[batch.segment] * self.weights[batch.ids]).clamp_(max=0.9)
        draw = torch.rand(s.tokens, device=device)
        # A sentence on its own always has a masked word: of two of its wordpieces, the one with the greater weight.
        cu = batch.cu_seqlens.long()[:-2]
        places = cu + 1 + (torch.rand(2, len(cu), device=device) * (length - 2).clamp(min=1)).long()
        places.clamp_(max=s.tokens - 1)
        better = self.weights[batch.ids[places[1]]] > self.weights[batch.ids[places[0]]]
        place = torch.where(better, places[1], places[0])
        draw[place] = torch.where(alone, -1.0, draw[place])
        chosen = choose_words(batch, self.continues, chance, draw)
        index, filled = compact(chosen, s.tokens // 5)
        ids = hide(batch.ids, chosen, s.mask_share, s.random_share)
        return ids, batch.positions, batch.cu_seqlens, MAX_SEGMENT, index, batch.ids[index], filled

    def rate_at(self, share: float) -> float:
        s = self.settings
        return s.peak_rate * min(share / s.warm_up, max(0.0, (1 - share) / (1 - s.warm_up)))

    def one_step(self, learning_rate: float) -> torch.Tensor:
        loss = self.loss(*self.batch())
        loss.backward()
        self.optimizer.step(learning_rate)
        return loss.detach()

    def warm(self) -> None:
        """Compile, before the clock starts: two steps that change nothing."""
        for _ in range(2):
            self.one_step(0.0)
        self.wait()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def run(self, budget: float, seconds: float, on_log=lambda: None) -> None:
        """Train for `seconds` more, at the place in the schedule that the seconds trained so far have in `budget`."""
        begun, before = time.perf_counter(), self.seconds
        losses, loss_sum = [], 0.0
        while True:
            self.seconds = before + time.perf_counter() - begun
            if self.seconds - before >= seconds or self.seconds >= budget:
                break
            rate = self.rate_at(self.seconds / budget)
            losses.append(self.one_step(rate))
            self.step += 1
            self.tokens_seen += self.settings.tokens
            if self.step % LOG_EVERY == 0:
                loss_sum = torch.stack(losses).mean().item()  # waits for the device
                losses.clear()
                if not math.isfinite(loss_sum):
                    raise SystemExit(f"step {self.step}: the loss is {loss_sum}")
                self.log.append((self.step, round(self.seconds, 2), self.tokens_seen, rate, round(loss_sum, 5)))
                on_log()
        self.wait()
        self.seconds = before + time.perf_counter() - begun

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state(),
            "settings": asdict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
            "tokens_seen": self.tokens_seen,
            "log": self.log,
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        settings = Settings(**state["settings"])
        settings.seed += state["step"]  # do not repeat the order of the data
        self.restart(settings)
        torch.manual_seed(settings.seed)
        self.model.load_state_dict(state["model"])
        self.optimizer.load(state["optimizer"])
        for name in ("step", "seconds", "tokens_seen", "log"):
            setattr(self, name, state[name])


def write_parts(tensors: dict[str, torch.Tensor], folder: Path, stem: str) -> None:
    """Write float16 safetensors in parts small enough for any transfer."""
    parts, size = [{}], 0
    for name, tensor in tensors.items():
        tensor = tensor.half()
        # A matrix larger than a part goes in pieces of rows, `NAME@0`, `NAME@1`, ...
        rows = max(1, PART_BYTES // (2 * tensor[0].numel())) if tensor.dim() > 1 else len(tensor)
        pieces = tensor.split(rows) if len(tensor) > rows else [tensor]
        for i, piece in enumerate(pieces):
            if size + piece.numel() * 2 > PART_BYTES:
                parts.append({})
                size = 0
            parts[-1][name if len(pieces) == 1 else f"{name}@{i}"] = piece.contiguous()
            size += piece.numel() * 2
    for i, part in enumerate(parts):
        save_file(part, folder / f"{stem}-{i}.safetensors")


def read_parts(folder: Path, stem: str) -> dict[str, torch.Tensor]:
    """Read what `write_parts` wrote, as float32."""
    pieces: dict[str, list] = {}
    paths = sorted(folder.glob(f"{stem}-*.safetensors"))
    if not paths:
        raise SystemExit(f"{folder}: no {stem}-*.safetensors")
    for path in paths:
        for name, tensor in quantize.load(path).items():
            base, _, i = name.partition("@")
            pieces.setdefault(base, []).append((int(i or 0), tensor))
    return {name: torch.cat([t for _, t in sorted(p, key=lambda x: x[0])]) for name, p in pieces.items()}


def write_results(trainer: Trainer, out: Path, extra: dict) -> None:
    write_parts(to_hugging_face(trainer.model), out, "trained")
    with open(out / "log.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "seconds", "tokens", "learning_rate", "loss"))
        writer.writerows(trainer.log)
    (out / "training.json").write_text(json.dumps(extra, indent=2) + "\n")


def figures(trainer: Trainer, held_out: dict, tokenizer: Tokenizer) -> dict:
    model, device = trainer.model, trainer.device
    return {
        "step": trainer.step,
        "seconds": trainer.seconds,
        "tokens": trainer.tokens_seen,
        "tokens_per_second": trainer.tokens_seen / max(trainer.seconds, 1e-9),
        "settings": asdict(trainer.settings),
        "held_out": held_out_scores(model, held_out, device),
        "cloze": {k: v for k, v in cloze(model, tokenizer, HERE / "cloze.jsonl", device).items() if k != "answers"},
        "paris": fill(model, tokenizer, PARIS, 10, device),
    }


def main() -> None:
    process_begun = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument(
        "--start", type=Path, required=True, help="safetensors of all-MiniLM-L6-v2, or of a BertForMaskedLM"
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of the checkpoint; resumed from if there is one"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, required=True, help="seconds of training in all")
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="stop this run so many seconds after its start"
    )
    parser.add_argument("--finish", action="store_true", help="end the schedule with this run, whatever the budget")
    parser.add_argument("--peak-rate", type=float, default=Settings.peak_rate)
    parser.add_argument("--tokens", type=int, default=Settings.tokens)
    parser.add_argument("--adamw", action="store_true", help="AdamW for all parameters, without Muon")
    parser.add_argument("--held-out-tokens", type=int, default=12 * 16384)
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = [tokenizer.id_to_token(i) for i in range(VOCAB_SIZE)]
    settings = Settings(tokens=args.tokens, peak_rate=args.peak_rate, muon=not args.adamw)
    trainer = Trainer(settings, args.ids, vocabulary, device)
    checkpoint = args.work / "checkpoint.pt"
    from_hugging_face(trainer.model, quantize.load(args.start))
    trainer.start_head()
    trainer.warm()
    if checkpoint.exists():
        trainer.load(checkpoint)
        print(f"resumed at step {trainer.step}, {trainer.seconds:.0f} s", flush=True)
    else:
        from_hugging_face(trainer.model, quantize.load(args.start))
        trainer.start_head()
        trainer.restart(settings)
    held_out = held_out_batches(args.ids, vocabulary, args.held_out_tokens)
    left = args.stop_after - (time.perf_counter() - process_begun)
    budget = trainer.seconds + left if args.finish else args.budget
    print(f"{len(trainer.corpus.ids)} ids; setup took {time.perf_counter() - process_begun:.0f} s", flush=True)

    def report() -> None:
        if trainer.step % (10 * LOG_EVERY) == 0:
            step, seconds, tokens, rate, loss = trainer.log[-1]
            print(
                f"step {step} {seconds:.0f} s {tokens / seconds / 1e6:.2f} M ids/s rate {rate:.2e} loss {loss:.4f}",
                flush=True,
            )
        if trainer.step % 4000 == 0:
            trainer.save(checkpoint)
            write_parts(to_hugging_face(trainer.model), args.out, "trained")

    trainer.run(budget, left, report)
    trainer.save(checkpoint)
    result = figures(trainer, held_out, tokenizer)
    result["budget"] = budget
    write_results(trainer, args.out, result)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
