"""Plots that all benchmarks share: time against tokens, and below it the share of the floor that each engine reaches."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One batch: its tokens, milliseconds by engine, and the least milliseconds it could take."""

    tokens: int
    times: dict
    floor: float
    # Not of sequences of one length: drawn as a mark beside the line.
    ragged: bool = False


def draw(panels, path, *, floor, tokens="tokens"):
    """Writes an SVG file with a column for each title in `panels`, whose values are lists of points.

    The engines are drawn in the order in which they occur, the first one thicker. `floor` and `tokens` are the words at
    the axes.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bertha"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(panels), figsize=(4.2 * len(panels), 7), sharex="col", squeeze=False, layout="constrained"
    )
    names = list(dict.fromkeys(name for points in panels.values() for one in points for name in one.times))
    for (title, points), (above, below) in zip(panels.items(), axes.T, strict=True):
        above.set_title(title)
        column(sorted(points, key=lambda one: one.tokens), names, above, below)
        below.set_xlabel(tokens)
    axes[0][0].set_ylabel("milliseconds")
    axes[1][0].set_ylabel(f"share of the {floor}")
    # Not every column has every engine.
    legend = {}
    for above in axes[0]:
        for handle, label in zip(*above.get_legend_handles_labels()):
            legend.setdefault(label, handle)
    # A figure legend fills its columns downwards: with as many rows as it takes to stay within the figure's width.
    rows = math.ceil(len(legend) / (3 * len(panels)))
    figure.legend(
        list(legend.values()),
        list(legend),
        loc="outside lower center",
        ncols=math.ceil(len(legend) / rows),
        frameon=False,
    )
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def column(points, names, above, below):
    """Lines through the batches of one length, single marks for ragged ones."""
    from matplotlib.ticker import PercentFormatter, ScalarFormatter

    for index, name in enumerate(names):
        style = {"color": f"C{index}", "marker": "o", "markersize": 4, "linewidth": 1.2 if index else 2}
        for ragged in (False, True):
            chosen = [one for one in points if one.ragged == ragged and name in one.times]
            tokens = [one.tokens for one in chosen]
            times = [one.times[name] for one in chosen]
            shares = [one.floor / one.times[name] for one in chosen]
            look = style | (
                {"linestyle": "none", "marker": "x", "markersize": 7} if ragged else {"label": name}
            )
            if chosen:
                above.plot(tokens, times, **look)
                below.plot(tokens, shares, **look)
    dense = [one for one in points if not one.ragged]
    above.plot([one.tokens for one in dense], [one.floor for one in dense], "k--", linewidth=1, label="floor")
    for one in points:
        if one.ragged:
            above.plot([one.tokens], [one.floor], "k_", markersize=9)
    below.axhline(1, color="k", linestyle="--", linewidth=1)
    above.set_yscale("log")
    below.set_xscale("log")
    below.set_xticks([one.tokens for one in points])
    below.set_xticks([], minor=True)
    below.tick_params(axis="x", labelrotation=45)
    below.xaxis.set_major_formatter(ScalarFormatter())
    below.yaxis.set_major_formatter(PercentFormatter(1))
    below.set_ylim(0, 1.05)
    for axis in (above, below):
        axis.grid(alpha=0.25)
