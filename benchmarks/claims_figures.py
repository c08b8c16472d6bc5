"""The two figures of docs/results.md, from the record of `python -m r1.run experiment=claims`.

    python benchmarks/claims_figures.py RECORD

Writes claims_rl.svg (pass@1 and thinking length over the steps of R1-Zero) and claims_language.svg (language
consistency with and without its reward) into docs/figures: the mean over seeds, the band is its 95 % interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib

from examples.claims.claims import LANGUAGE, PASS, THINKING
from examples.claims.effect import Runs, curve
from examples.claims.findings import finished_runs, read_manifest
from r1.core.statistics import mean_over_seeds

FIGURES_DIR = Path(__file__).parent.parent / "docs" / "figures"
BLUE, ORANGE = "#2b6cb0", "#d2691e"

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "r1", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402


def line(axis: Axes, runs: Runs, step: str, metric: str, color: str, label: str | None = None) -> None:
    """The mean over seeds and its interval at each validation."""
    curves = [dict(curve(run, metric)) for run in runs[step].values()]
    steps = sorted(set.intersection(*map(set, curves)))
    found = [mean_over_seeds([held[at] for held in curves]) for at in steps]
    axis.fill_between(steps, [f.low for f in found], [f.high for f in found], color=color, alpha=0.2, linewidth=0)
    axis.plot(steps, [f.value for f in found], color=color, linewidth=1.6, label=label)


def learning(runs: Runs) -> None:
    _, (left, right) = pyplot.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    line(left, runs, "zero", PASS, BLUE)
    left.set(xlabel="optimizer step", title="held-out pass@1", ylim=(0, 1))
    line(right, runs, "zero", THINKING, BLUE)
    right.set(xlabel="optimizer step", title="mean thinking length (tokens)", ylim=(0, None))


def language(runs: Runs) -> None:
    _, axis = pyplot.subplots(figsize=(5, 2.8), layout="constrained")
    line(axis, runs, "zero_language", LANGUAGE, BLUE, "with its reward")
    line(axis, runs, "zero", LANGUAGE, ORANGE, "without")
    axis.set(xlabel="optimizer step", title="language consistency of the thinking", ylim=(0.7, 1.005))
    axis.legend(frameon=False, loc="lower left")


FIGURES: dict[str, Callable[[Runs], None]] = {"claims_rl.svg": learning, "claims_language.svg": language}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="the pipeline's folder")
    runs = finished_runs(read_manifest(parser.parse_args().record))
    for name, draw in FIGURES.items():
        draw(runs)
        pyplot.savefig(FIGURES_DIR / name, metadata={"Date": None})
        print(FIGURES_DIR / name)


if __name__ == "__main__":
    main()
