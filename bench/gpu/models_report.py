"""What is shown of a record of `models.py`: a table and a plot, with the figures of others and what the card allows."""

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from encoder import CONFIGS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from plot import Point, draw  # noqa: E402

# Measured on an H100 80GB HBM3: an 8192-cubed product in 16 bits, and a copy, read and write.
FLOP_PER_SECOND, BYTES_PER_SECOND = 790e12, 3.0e12

# Milliseconds, f16: TensorRT 8.6.0 with CUDA graph replay on another card of this kind, and the goal that Bertha set itself.
REFERENCES = {
    ("bert-base", 1, 32): (0.4265, 0.13),
    ("bert-base", 1, 128): (0.5151, 0.15),
    ("bert-base", 1, 384): (0.6250, 0.25),
    ("bert-base", 8, 128): (0.8008, 0.45),
    ("bert-base", 32, 128): (2.0075, 1.30),
    ("bert-base", 32, 384): (6.4327, 4.0),
    ("bert-base", 128, 128): (7.0844, 4.8),
    ("bert-large", 1, 128): (1.0233, 0.32),
    ("bert-large", 1, 384): (1.4192, 0.55),
    ("bert-large", 32, 128): (5.7846, 4.2),
}
TENSORRT = "TensorRT 8.6.0"


@dataclass(frozen=True)
class Shape:
    """A batch of a model."""

    model: str
    batch: int
    seq: int

    @classmethod
    def parse(cls, text):
        """`bert-base:32x128`."""
        model, _, size = text.partition(":")
        batch, _, seq = size.partition("x")
        if model not in CONFIGS or not (batch.isdecimal() and seq.isdecimal() and int(batch) * int(seq) > 0):
            raise ValueError(f"`{text}` is not MODEL:BATCHxLENGTH with a model of {', '.join(CONFIGS)}")
        return cls(model, int(batch), int(seq))

    def __str__(self):
        return f"{self.model}:{self.batch}x{self.seq}"

    @property
    def tokens(self):
        return self.batch * self.seq

    @property
    def flops(self):
        """Floating-point operations of products and attention, two for each multiply-add."""
        one = CONFIGS[self.model]
        products = 2 * self.tokens * (4 * one.hidden**2 + 2 * one.hidden * one.ffn)
        return one.layers * (products + 4 * self.batch * self.seq**2 * one.hidden)

    @property
    def floor_ms(self):
        """The longer one of all operations at the card's rate and of reading all layers' weights once."""
        one = CONFIGS[self.model]
        weights = 2 * one.layers * (4 * one.hidden**2 + 2 * one.hidden * one.ffn)
        return 1e3 * max(self.flops / FLOP_PER_SECOND, weights / BYTES_PER_SECOND)


def result(shape, rounds, notes):
    """The record of one shape. `rounds` has milliseconds by engine, one for each round; ratios are formed within rounds."""
    tensorrt, goal = REFERENCES.get((shape.model, shape.batch, shape.seq), (None, None))
    medians = {name: statistics.median(times) for name, times in rounds.items()}
    one = {
        "model": shape.model,
        "batch": shape.batch,
        "seq": shape.seq,
        "tokens": shape.tokens,
        "gflop": shape.flops / 1e9,
        "floor_ms": shape.floor_ms,
        "tensorrt_ms": tensorrt,
        "goal_ms": goal,
        "rounds_ms": rounds,
        "median_ms": medians,
    }
    if "bertha" in rounds:
        ratios = {}
        for name in rounds:
            if name.startswith("torch"):
                each = [peer / ours for peer, ours in zip(rounds[name], rounds["bertha"])]
                ratios[name] = {"median": statistics.median(each), "min": min(each), "max": max(each)}
        if tensorrt:
            ratios[TENSORRT] = {"median": tensorrt / medians["bertha"]}
        one["ratio_to_bertha"] = ratios
        one["share_of_floor"] = shape.floor_ms / medians["bertha"]
        one["tflop_per_second"] = shape.flops / medians["bertha"] / 1e9
        if goal:
            one["reaches_goal"] = medians["bertha"] <= goal
    return one | notes


def best_compiled(one):
    """The faster form of torch.compile, by name."""
    forms = [name for name in one["median_ms"] if name.startswith("torch.compile")]
    return min(forms, key=one["median_ms"].get, default=None)


def table(record):
    """All shapes as a Markdown table: milliseconds on the card, and how many times Bertha's others take."""
    header = ["model", "batch x length", "Bertha", "TFLOP/s", "of floor", "goal", "torch", "torch.compile", "ratio"]
    header += [TENSORRT, "ratio"]
    rows = [header, ["---"] * len(header)]
    for one in record["results"]:
        ours, ratios = one["median_ms"].get("bertha"), one.get("ratio_to_bertha", {})
        compiled = best_compiled(one)
        cells = [one["model"], f"{one['batch']}x{one['seq']}"]
        if ours is None:
            cells += ["", "", "", number(one["goal_ms"])]
        else:
            goal = number(one["goal_ms"]) + (" reached" if one.get("reaches_goal") else "")
            cells += [number(ours), f"{one['tflop_per_second']:.0f}", f"{one['share_of_floor']:.0%}", goal]
        cells += [number(one["median_ms"].get("torch")), number(one["median_ms"].get(compiled))]
        cells += [spread(ratios.get(compiled)), number(one["tensorrt_ms"]), spread(ratios.get(TENSORRT))]
        rows.append(cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def number(milliseconds):
    return "" if milliseconds is None else f"{milliseconds:.3f}"


def spread(ratio):
    if not ratio:
        return ""
    return f"{ratio['median']:.2f}" + (f" ({ratio['min']:.2f}..{ratio['max']:.2f})" if "min" in ratio else "")


def plot(record, path):
    """Time against tokens and the share of the floor, one column for each model, as an SVG file."""
    panels = {}
    for one in sorted(record["results"], key=lambda one: one["model"]):
        if "bertha" not in one["median_ms"]:
            continue
        compiled = best_compiled(one)
        times = {"Bertha": one["median_ms"]["bertha"]}
        if compiled:
            times["torch.compile"] = one["median_ms"][compiled]
        if one["tensorrt_ms"]:
            times[f"{TENSORRT} (another H100)"] = one["tensorrt_ms"]
        panels.setdefault(f"{one['model']}, f16", []).append(Point(one["tokens"], times, one["floor_ms"]))
    draw(panels, path, floor="floor (arithmetic, or weights read once)")
