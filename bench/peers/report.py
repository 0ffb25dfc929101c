"""What is shown of the measurements: a table and a plot."""

import sys
from pathlib import Path

import shapes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from plot import Point, draw  # noqa: E402


def floor(measurement, peak):
    """Milliseconds at the multiply-add peak (GFLOP/s of one core) of all threads, without padding."""
    return shapes.floor_ms(measurement.model, measurement.shape, peak * measurement.threads)


def line(measurement, peak):
    """One measurement in a line, to follow a run."""
    where = f"{measurement.model.name} {measurement.shape.name} x{measurement.threads}"
    if not measurement.rounds:
        errors = ", ".join(f"{name} {error:.1e}" for name, error in measurement.errors.items())
        return f"{where}: relative errors {errors}"
    times = ", ".join(f"{name} {measurement.median(name):.3f}" for name in measurement.rounds)
    return f"{where}: {times} ms; floor {floor(measurement, peak):.3f} ms"


def table(measurements, peak):
    """All measurements as a Markdown table: median milliseconds, and what the best peer takes of Bertha's time."""
    timed = [measurement for measurement in measurements if "bertha" in measurement.rounds]
    names = list(dict.fromkeys(name for measurement in timed for name in measurement.rounds))
    header = ["model", "shape", "threads", *names, "floor", "best peer / bertha (min..max)"]
    rows = [header, ["---"] * len(header)]
    for measurement in timed:
        times = [f"{measurement.median(name):.3f}" if name in measurement.rounds else "" for name in names]
        best = measurement.best_peer()
        ratio = "{:.2f} ({:.2f}..{:.2f})".format(*measurement.ratio(best)) + f" {best}" if best else ""
        where = [measurement.model.name, measurement.shape.name, str(measurement.threads)]
        rows.append([*where, *times, f"{floor(measurement, peak):.3f}", ratio])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def plot(measurements, peak, path):
    """Time against tokens, and below it the share of the floor that each engine reaches, as an SVG file."""
    panels = {}
    for one in measurements:
        if "bertha" in one.rounds:
            title = f"{one.model.name}, {one.threads} thread{'s' if one.threads > 1 else ''}"
            times = {name: one.median(name) for name in one.rounds}
            point = Point(one.shape.tokens, times, floor(one, peak), one.shape.padded)
            panels.setdefault(title, []).append(point)
    draw(panels, path, floor="multiply-add floor", tokens="tokens (x: ragged batch, padding not counted)")
