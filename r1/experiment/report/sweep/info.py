"""What a sweep was asked for: its file, or what its runs differ in."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r1.core.errors import UserError
from r1.core.runs import RunRecord
from r1.experiment.report.sweep.trials import SEEDS, headline, parameters

FILE = "sweep.yaml"


@dataclass(frozen=True)
class SweepInfo:
    """The head of a sweep's page.

    Attributes:
        question: the comment at the top of its file.
        command: what runs it again; empty where nothing says.
        point: the command of one point.
        method: grid, random, bayes; runs: there is no sweep file.
        problem: why there is none, although there is a file.
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


def asked(folder: Path | None, runs: Sequence[RunRecord]) -> SweepInfo:
    """The sweep file of a folder; without one (that can be read) what the runs themselves say."""
    from yaml import YAMLError  # type: ignore[import-untyped]

    file = folder / FILE if folder else None
    try:
        return _of_file(file) if file and file.is_file() else _of_runs(folder, runs)
    except (OSError, ValueError, KeyError, TypeError, YAMLError, UserError) as error:
        why = error.message if isinstance(error, UserError) else type(error).__name__
        return _of_runs(folder, runs, f"{FILE} cannot be read ({why}), so the parameters are what the runs differ in.")


def _of_file(file: Path) -> SweepInfo:
    from r1.experiment.sweep.file import read_sweep

    held = read_sweep(str(file))
    start = held.command.index("r1.run")
    name = file.parent.name if held.name == file.stem else held.name
    return SweepInfo(
        name=name,
        question=question(file.read_text(encoding="utf-8")),
        command=f"python -m r1.sweep sweeps/{name}.yaml",
        point=shlex.join(["python", "-m", *(part for part in held.command[start:] if "${" not in part)]),
        method=held.method,
        metric=held.metric,
        maximize=held.goal == "maximize",
        parameters=[name for name in held.parameters if name not in SEEDS],
    )


def _of_runs(folder: Path | None, runs: Sequence[RunRecord], problem: str = "") -> SweepInfo:
    commands = {str(run.manifest.get("command")) for run in runs}
    command = commands.pop() if len(commands) == 1 else ""
    name = folder.name if folder else ""
    return SweepInfo(name, "", command, "", "runs", headline(runs), True, parameters(runs), problem)


def question(text: str) -> str:
    """The comment at the top of a YAML file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.strip("# \t"))
    return " ".join(filter(None, lines))
