"""The summary of a sweep: its settings by their metric over seeds, its failures, and the best setting's command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table

from r1.core.console import status_line
from r1.core.statistics import mean_over_seeds
from r1.experiment.seed_groups import group_by_values
from r1.experiment.sweep.file import Sweep
from r1.experiment.sweep.points import SEED
from r1.experiment.sweep.study import Study, SweepPoint


@dataclass(frozen=True)
class Setting:
    """The points that differ in their seed only.

    Attributes:
        values: of all parameters but the seed.
        points: finished ones before the others.
    """

    values: dict[str, Any]
    points: list[SweepPoint]

    @property
    def scores(self) -> list[float]:
        """The metric of each finished point."""
        return [point.value for point in self.points if point.value is not None]

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores) if self.scores else 0.0

    @property
    def text(self) -> str:
        """The mean over seeds with its 95 % interval, or the only score, or the last values of unfinished points."""
        scores = self.scores
        if len(scores) > 1:
            return str(mean_over_seeds(scores))
        if scores:
            return f"{scores[0]:.4g}"
        last = [max(point.history.items()) for point in self.points if point.history]
        return ", ".join(f"{value:.4g} at step {step}" for step, value in last)

    @property
    def status(self) -> str:
        names = [point.status for point in self.points]
        if len(names) == 1:
            return names[0]
        return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def group_by_setting(sweep: Sweep, points: list[SweepPoint]) -> list[Setting]:
    """The settings of a sweep: most finished seeds first, and among those with as many the best mean first."""
    sign = -1 if sweep.goal == "maximize" else 1
    settings = [
        Setting(_values_without_seed(group[0]), sorted(group, key=lambda point: point.value is None))
        for group in group_by_values(points, _values_without_seed)
    ]
    return sorted(settings, key=lambda setting: (-len(setting.scores), sign * setting.mean))


def _values_without_seed(point: SweepPoint) -> dict[str, Any]:
    return {name: value for name, value in point.values.items() if name != SEED}


def command_for_setting(sweep: Sweep, setting: Setting) -> str:
    """The command that runs a setting again, with all its seeds."""
    seeds = [str(point.values[SEED]) for point in setting.points if SEED in point.values]
    values = {name: ",".join(seeds) if name == SEED else setting.values[name] for name in sweep.parameters}
    flags = ["-m"] if len(seeds) > 1 else []
    return shlex.join(["python", "-m", "r1.run", *flags, *sweep.overrides(values)])


def final_summary(study: Study, url: str) -> RenderableType:
    """The table of settings, the errors of failed points, and the commands to run next.

    Args:
        url: the study's storage.
    """
    sweep, points = study.sweep, study.points()
    settings = group_by_setting(sweep, points)
    failed = [point for point in points if point.status == "failed"]
    lines = [f"{point.folder.name} failed: {point.error}; see {point.folder / 'output.log'}" for point in failed]
    best = settings[0] if settings else None
    if best and best.scores:
        seeds = f" over {len(best.scores)} seeds" if len(best.scores) > 1 else ""
        values = " ".join(f"{name}={value}" for name, value in best.values.items())
        lines += [f"best: {sweep.metric} {best.text}{seeds}: {values}", f"again: {command_for_setting(sweep, best)}"]
    lines += [f"page: python -m r1.sweep {sweep.path} --report", f"study: optuna-dashboard {url}"]
    return Group(_settings_table(study, settings), *map(status_line, lines))


def _settings_table(study: Study, settings: list[Setting]) -> Table:
    names = [name for name in study.space.parameters if name != SEED]
    columns = [Column(name, overflow="fold") for name in (*names, study.sweep.metric)]
    has_seeds = any(len(setting.points) > 1 for setting in settings)
    table = Table(*columns, *(["seeds"] if has_seeds else []), "status", "runs", box=SIMPLE_HEAD, pad_edge=False)
    for setting in settings:
        records = " ".join(sorted(point.folder.name for point in setting.points))
        cells = [str(setting.values[name]) for name in names] + [setting.text]
        cells += [str(len(setting.scores))] if has_seeds else []
        table.add_row(*map(escape, [*cells, setting.status, records]))
    return table
