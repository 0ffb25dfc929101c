"""What is shown of the measurements: a table and a plot."""

import shapes


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
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bertha"
    from matplotlib import pyplot

    panels = {}
    for measurement in measurements:
        if "bertha" in measurement.rounds:
            panels.setdefault((measurement.model.name, measurement.threads), []).append(measurement)
    figure, axes = pyplot.subplots(
        2, len(panels), figsize=(4.2 * len(panels), 7), sharex="col", squeeze=False, layout="constrained"
    )
    for (title, group), (above, below) in zip(panels.items(), axes.T, strict=True):
        group.sort(key=lambda measurement: measurement.shape.tokens)
        above.set_title(f"{title[0]}, {title[1]} thread{'s' if title[1] > 1 else ''}")
        draw(group, peak, above, below)
    axes[0][0].set_ylabel("milliseconds")
    axes[1][0].set_ylabel("share of the multiply-add floor")
    handles, labels = axes[0][0].get_legend_handles_labels()
    columns = min(len(labels), 3 * len(panels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def draw(group, peak, above, below):
    """One column: lines through the batches without padding, single marks for ragged ones."""
    from matplotlib.ticker import PercentFormatter, ScalarFormatter

    names = dict.fromkeys(name for measurement in group for name in measurement.rounds)
    for index, name in enumerate(names):
        style = {
            "color": f"C{index}",
            "marker": "o",
            "markersize": 4,
            "linewidth": 2 if name == "bertha" else 1.2,
        }
        for padded in (False, True):
            chosen = [one for one in group if one.shape.padded == padded and name in one.rounds]
            tokens = [one.shape.tokens for one in chosen]
            times = [one.median(name) for one in chosen]
            shares = [floor(one, peak) / time for one, time in zip(chosen, times)]
            look = style | (
                {"linestyle": "none", "marker": "x", "markersize": 7} if padded else {"label": name}
            )
            above.plot(tokens, times, **look)
            below.plot(tokens, shares, **look)
    tokens = [one.shape.tokens for one in group]
    dense = [one for one in group if not one.shape.padded]
    floors = [floor(one, peak) for one in dense]
    above.plot([one.shape.tokens for one in dense], floors, "k--", linewidth=1, label="floor")
    for one in group:
        if one.shape.padded:
            above.plot([one.shape.tokens], [floor(one, peak)], "k_", markersize=9)
    below.axhline(1, color="k", linestyle="--", linewidth=1)
    above.set_yscale("log")
    below.set_xscale("log")
    below.set_xticks(tokens)
    below.set_xticks([], minor=True)
    below.tick_params(axis="x", labelrotation=45)
    below.xaxis.set_major_formatter(ScalarFormatter())
    below.yaxis.set_major_formatter(PercentFormatter(1))
    below.set_ylim(0, 1.05)
    below.set_xlabel("tokens (x: ragged batch, padding not counted)")
    for axis in (above, below):
        axis.grid(alpha=0.25)
