"""The README's first figure, from the record of `python -m r1.run experiment=real`.

    python benchmarks/real_figure.py RECORD

Writes docs/figures/real.svg. Left: the share of right completions in the rollouts of GRPO, averaged over five
steps, a line per seed. Right: accuracy on fresh questions before GRPO (hollow) and after it, with 95 % intervals, a row
per seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import matplotlib

from examples.smollm2.page import TESTS
from r1.core.runs import RunRecord
from r1.core.statistics import Estimate
from r1.experiment.benchmarks.results import benchmark_runs, final_metrics

FILE = Path(__file__).parent.parent / "docs" / "figures" / "real.svg"
BLUE, GREY = "#2b6cb0", "#718096"
WINDOW = 5  # steps

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "r1", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402


def draw_rollouts(axis: Axes, run: RunRecord) -> None:
    values = [row["reward/accuracy"] for row in run.metrics if "reward/accuracy" in row]
    means = [fmean(values[i : i + WINDOW]) for i in range(0, len(values) - WINDOW + 1, WINDOW)]
    axis.plot([WINDOW * (i + 1) for i in range(len(means))], means, color=BLUE, linewidth=1.4, alpha=0.7)


def draw_estimate(axis: Axes, height: float, estimate: Estimate, color: str, is_filled: bool) -> None:
    axis.plot([estimate.low, estimate.high], [height, height], color=color, linewidth=1)
    axis.plot(
        [estimate.value], [height], "o", color=color, markerfacecolor=color if is_filled else "white", markersize=5
    )


def draw_tests(axis: Axes, runs: dict[str, RunRecord]) -> None:
    ticks: dict[float, str] = {}
    height = 0.0
    for tasks, (before, after) in TESTS.items():
        for decoding, metric in (("sampled", "val/pass@1"), ("greedy", "val/greedy")):
            seeds = [run for name, run in runs.items() if name.partition("[")[0] == after]
            draw_estimate(axis, height, final_metrics(runs[before])[metric], GREY, is_filled=False)
            for i, run in enumerate(seeds, 1):
                draw_estimate(axis, height - 0.22 * i, final_metrics(run)[metric], BLUE, is_filled=True)
            ticks[height - 0.11 * len(seeds)] = f"{tasks}, {decoding}"
            height -= 0.22 * len(seeds) + 0.6
    axis.set_yticks(list(ticks), list(ticks.values()))
    axis.tick_params(axis="y", length=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="the pipeline's folder")
    runs = benchmark_runs(parser.parse_args().record)
    _, (left, right) = pyplot.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    for name, run in runs.items():
        if name.partition("[")[0] == "rl":
            draw_rollouts(left, run)
    left.set(xlabel="optimizer step of GRPO", title="right completions in the rollouts", ylim=(0, 1))
    draw_tests(right, runs)
    right.set(title="accuracy on fresh questions: after SFT (hollow), after GRPO", xlim=(0, 1))
    right.title.set_fontsize(8)
    pyplot.savefig(FILE, metadata={"Date": None})
    print(FILE)


if __name__ == "__main__":
    main()
