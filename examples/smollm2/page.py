"""The end of experiment=real: accuracy before and after GRPO, sampled and greedy, task by task, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from r1.core.console import console
from r1.core.files import write_atomic
from r1.core.runs import RunRecord
from r1.core.statistics import Estimate
from r1.experiment.benchmarks.results import benchmark_runs, final_metrics, paired_difference

TESTS = {"trained": ("test_form", "test_rl"), "not trained": ("others_form", "others_rl")}
COLUMNS = ("tasks", "", "after SFT", "after GRPO", "difference, paired by question")


class Line(NamedTuple):
    """Accuracy of both models on the same questions; the difference only where it is paired."""

    tasks: str
    decoding: str
    before: Estimate
    after: Estimate
    difference: Estimate | None = None


def page(folder: Path) -> Path:
    """Print the table, and write it into a pipeline's record as ``real.md``."""
    table, text = Table(*COLUMNS, box=SIMPLE_HEAD), ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for line in lines(benchmark_runs(folder)):
        cells = [line.tasks, line.decoding, *(str(cell or "") for cell in line[2:])]
        table.add_row(*cells)
        text.append("| " + " | ".join(cells) + " |")
    console.print(table)
    write_atomic(folder / "real.md", "\n".join(text) + "\n")
    return folder / "real.md"


def lines(runs: dict[str, RunRecord]) -> Iterator[Line]:
    """For every seed of GRPO the trained and the other tasks: all together, then one by one."""
    for tasks, (before, after) in TESTS.items():
        for step, run in runs.items():
            name, _, seed = step.rstrip("]").partition("[")
            if name == after and before in runs:
                yield from compared(f"{tasks}, seed {seed}" if seed else tasks, runs[before], run)


def compared(tasks: str, before: RunRecord, after: RunRecord) -> Iterator[Line]:
    old, new = final_metrics(before), final_metrics(after)
    for decoding, metric in (("sampled", "val/pass@1"), ("greedy", "val/greedy")):
        difference = paired_difference(after, before, greedy=decoding == "greedy")
        yield Line(tasks, decoding, old[metric], new[metric], difference)
    for metric in sorted(new):
        if metric.startswith("val/task="):
            task, _, name = metric.removeprefix("val/task=").partition("/")
            if name == "pass@1":
                yield Line(f"  {task}", "sampled", old[metric], new[metric])
