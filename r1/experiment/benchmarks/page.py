"""The table of experiment=benchmarks on the screen, and as benchmarks.html in the pipeline's record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table

from r1.core.console import console
from r1.core.files import write_atomic
from r1.core.runs import RunRecord
from r1.core.statistics import Estimate
from r1.experiment.benchmarks.results import BenchmarkResult, benchmark_runs, results
from r1.experiment.report.html import plain_html

MAX_WIDTH = 1000  # characters of a printed row

OPTIONAL = (
    "greedy",
    "lenient",
    "truncated",
    "length",
    "baseline",
    "difference",
)  # columns of the page, where any has it


class BenchmarksPage:
    """Writes the page of a pipeline whose steps are evaluations.

    Args:
        baseline: the record of the same pipeline with another model, which gets columns of its own.

    Raises:
        UserError: ``baseline`` is not the record of a pipeline.
    """

    def __init__(self, *, baseline: str | None) -> None:
        self.others = {} if baseline is None else benchmark_runs(Path(baseline))

    def __call__(self, folder: Path) -> Path:
        """Print the table, and write ``benchmarks.html`` into the pipeline's record."""
        runs = benchmark_runs(folder)
        lines, names = results(runs, self.others), [model_name(runs), model_name(self.others)]
        shown = table(lines, names)
        shown.width = Measurement.get(console, console.options.update(width=MAX_WIDTH), shown).maximum
        console.print(shown, crop=False)  # rows stay whole where the console is narrow
        file = folder / "benchmarks.html"
        columns = [name for name in OPTIONAL if any(getattr(line, name) is not None for line in lines)]
        values = {"lines": lines, "columns": columns, "names": names, "runs": list(runs.values())}
        write_atomic(file, plain_html(Path(__file__).parent, **values))
        return file


def model_name(runs: dict[str, RunRecord]) -> str:
    """The models of these runs: one, unless the user has set it step by step."""
    return ", ".join(dict.fromkeys(str(run.config["model"]["path"]) for run in runs.values()))


def table(lines: Sequence[BenchmarkResult], names: Sequence[str]) -> Table:
    """Benchmarks, and below each its parts; with a baseline two more columns."""
    model, other = names
    columns = ["questions", "pass@1", "maj@k", "greedy", "lenient"]
    columns = [c for c in columns if c not in ("greedy", "lenient") or any(text_of(line, c) for line in lines)]
    columns += ["baseline", "difference"] if other else []
    shown = Table(Column("benchmark", no_wrap=True), *columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.title, shown.title_justify = escape(f"{model}, baseline: {other}" if other else model), "left"
    for line in lines:
        shown.add_row(escape(line.name), *(text_of(line, column) for column in columns))
        for part in line.parts:
            shown.add_row(escape(f"  {part.name}"), *(text_of(part, column) for column in columns))
    return shown


def text_of(line: BenchmarkResult, column: str) -> str:
    """One cell; empty where there is nothing."""
    if column == "questions":
        return str(line.questions)
    if column == "maj@k":
        return f"{line.majority}, k={line.k}" if line.majority else ""
    cells: dict[str, Estimate | None] = {
        "pass@1": line.pass_at_1,
        "greedy": line.greedy,
        "lenient": line.lenient,
        "baseline": line.baseline,
        "difference": line.difference,
    }
    return str(cells[column] or "")
