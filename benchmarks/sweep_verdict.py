"""What a sweep has found, as it is kept beside its file: question, command, commit, figure, verdict, table.

    python benchmarks/sweep_verdict.py outputs/sweeps/NAME --out sweeps/NAME.md --figure sweeps/NAME.svg

Works on a sweep's folder and on any folder of runs that differ in a few keys. The figure has the metric over each
parameter, the others averaged out: each run a dot, the mean over seeds with its 95 % interval; and for a grid of two
parameters the mean of every point.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import matplotlib

from r1.core.console import print_error
from r1.core.errors import UserError
from r1.experiment.report.gather import gather
from r1.experiment.report.sweep.analysis import Analysis, analyse
from r1.experiment.report.sweep.conclusions import markdown
from r1.experiment.report.sweep.effects import Response, order
from r1.experiment.report.sweep.points import labels, value_text

BLUE, GREY = "#2b6cb0", "#8a9099"
WIDTH, HEIGHT, MAX_CELLS = 3.4, 2.9, 100  # inches of a panel; points of a map

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "r1", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402


def curve(axis: Axes, found: Analysis, made: Response) -> None:
    """The metric over one parameter."""
    places = [value_text(value) for value in order([trial.values[made.name] for trial in found.trials])]
    ordinal = made.scale == "ordinal"
    at = {place: float(i) for i, place in enumerate(places)}
    dots = [
        (trial.values[made.name], trial.estimate.value) for trial in found.trials if trial.is_counted and trial.estimate
    ]
    xs = [at[value_text(value)] if ordinal else float(value or 0) for value, _ in dots]
    axis.plot(xs, [y for _, y in dots], "o", color=GREY, alpha=0.5, markersize=3, markeredgewidth=0)
    x = [at[str(level.x)] if ordinal else float(level.x) for level in made.levels]
    axis.plot(x, [level.estimate.value for level in made.levels], "o-", color=BLUE, linewidth=1.6, markersize=4.5)
    known = [
        (xi, lv.estimate.low, lv.estimate.high)
        for xi, lv in zip(x, made.levels, strict=True)
        if lv.estimate.low is not None
    ]
    axis.vlines(*zip(*known, strict=True), color=BLUE, linewidth=1.6) if known else None
    axis.set(xlabel=made.name, ylabel=found.info.metric, xscale="log" if made.scale == "log" else "linear")
    if ordinal or not made.binned:
        axis.set_xticks(x, [level.label for level in made.levels])
        axis.minorticks_off()
    axis.margins(x=0.08)


def grid(axis: Axes, found: Analysis) -> None:
    """The mean of every point of two parameters; the best one framed."""
    columns, rows = (order([point.values[name] for point in found.points]) for name in found.names)
    means = {tuple(point.values.values()): point.estimate.value for point in found.points if point.estimate}
    cells = [[means.get((column, row), float("nan")) for column in columns] for row in rows]
    image = axis.imshow(cells, cmap="viridis", aspect="auto", origin="lower")
    for (column, row), mean in means.items():
        dark = image.norm(mean) < 0.6
        where = columns.index(column), rows.index(row)
        axis.text(*where, f"{mean:.3f}", ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    if found.winner:
        left, bottom = (
            values.index(v) - 0.5 for values, v in zip((columns, rows), found.winner.values.values(), strict=True)
        )
        axis.add_patch(
            pyplot.Rectangle((left, bottom), 1, 1, fill=False, edgecolor="#d2691e", linewidth=2, clip_on=False)
        )
    short = labels(found.names)
    axis.set(xlabel=short[found.names[0]], ylabel=short[found.names[1]], title=f"mean {found.info.metric}")
    axis.set_xticks(range(len(columns)), list(map(value_text, columns)))
    axis.set_yticks(range(len(rows)), list(map(value_text, rows)))


def draw(found: Analysis, file: Path) -> None:
    mapped = (
        len(found.names) == 2 and len(found.points) <= MAX_CELLS and not any(made.binned for made in found.responses)
    )
    panels = len(found.responses) + mapped
    _, axes = pyplot.subplots(1, panels, figsize=(WIDTH * panels, HEIGHT), layout="constrained", squeeze=False)
    for axis, made in zip(axes[0], found.responses, strict=False):
        curve(axis, found, made)
    if mapped:
        grid(axes[0][-1], found)
    file.parent.mkdir(parents=True, exist_ok=True)
    pyplot.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", help="a sweep's folder, or one that holds runs")
    parser.add_argument("--out", type=Path, required=True, help="the Markdown file")
    parser.add_argument("--figure", type=Path, help="the SVG file")
    args = parser.parse_args()
    try:
        held = gather([args.records])
        found = analyse(held.runs, held.folder)
        if found is None:
            raise UserError(
                "the runs here differ in nothing, or in too much to be a sweep", key="RECORDS", value=args.records
            )
    except UserError as error:
        sys.exit(print_error(error))
    drawn = args.figure if args.figure and found.responses else None
    if drawn:
        draw(found, drawn)
    image = os.path.relpath(drawn, args.out.parent) if drawn else ""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(markdown(found, args.out.stem, image), encoding="utf-8")
    print(args.out, *([drawn] if drawn else []), sep="\n")


if __name__ == "__main__":
    main()
