"""The question, metric and parameters of a sweep: from its file, or from the differences of its runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r1.core.errors import UserError
from r1.core.runs import RunRecord
from r1.experiment.report.sweep.trials import SEEDS, metric_of_runs, parameters

FILE = "sweep.yaml"


@dataclass(frozen=True)
class SweepInfo:
    """The head of a sweep's page.

    Attributes:
        question: the comment at the top of its file.
        command: the command that runs it again; empty: unknown.
        point: the command of one point.
        method: grid, random, bayes; runs: there is no sweep file.
        problem: why the sweep file could not be read.
    """

    name: str
    question: str
    command: str
    point: str
    method: str
    metric: str
    maximize: bool
    parameters: list[str]
    problem: str = ""


def sweep_info(folder: Path | None, runs: Sequence[RunRecord]) -> SweepInfo:
    """From the sweep file of a folder; without a readable one, from the runs."""
    from yaml import YAMLError  # type: ignore[import-untyped]

    file = folder / FILE if folder else None
    try:
        return _from_file(file) if file and file.is_file() else _from_runs(folder, runs)
    except (OSError, ValueError, KeyError, TypeError, YAMLError, UserError) as error:
        why = error.message if isinstance(error, UserError) else type(error).__name__
        problem = f"{FILE} cannot be read ({why}), so the parameters are those in which the runs differ."
        return _from_runs(folder, runs, problem)


def _from_file(file: Path) -> SweepInfo:
    from r1.experiment.sweep.file import read_sweep

    sweep = read_sweep(str(file))
    start = sweep.command.index("r1.run")
    name = file.parent.name if sweep.name == file.stem else sweep.name
    return SweepInfo(
        name=name,
        question=question(file.read_text(encoding="utf-8")),
        command=f"python -m r1.sweep sweeps/{name}.yaml",
        point=shlex.join(["python", "-m", *(part for part in sweep.command[start:] if "${" not in part)]),
        method=sweep.method,
        metric=sweep.metric,
        maximize=sweep.goal == "maximize",
        parameters=[name for name in sweep.parameters if name not in SEEDS],
    )


def _from_runs(folder: Path | None, runs: Sequence[RunRecord], problem: str = "") -> SweepInfo:
    commands = {str(run.manifest.get("command")) for run in runs}
    command = commands.pop() if len(commands) == 1 else ""
    name = folder.name if folder else ""
    return SweepInfo(name, "", command, "", "runs", metric_of_runs(runs), True, parameters(runs), problem)


def question(text: str) -> str:
    """The comment at the top of a YAML file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.strip("# \t"))
    return " ".join(filter(None, lines))
