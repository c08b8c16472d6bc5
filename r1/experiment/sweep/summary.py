"""What a sweep has found: its points by their metric, the seeds of one taken together, and the best to run again."""

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
from r1.experiment.sweep.study import Study, SweepPoint

SEED = "seed"


@dataclass(frozen=True)
class Setting:
    """The points that differ in nothing but their seed.

    Attributes:
        values: of all parameters but the seed.
        points: those that have finished first.
    """

    values: dict[str, Any]
    points: list[SweepPoint]

    @property
    def figures(self) -> list[float]:
        return [point.value for point in self.points if point.value is not None]

    @property
    def mean(self) -> float | None:
        figures = self.figures
        return sum(figures) / len(figures) if figures else None

    @property
    def text(self) -> str:
        """The mean over seeds with its 95 % interval, or the one figure; where none has finished, how far they came."""
        figures = self.figures
        if len(figures) > 1:
            return str(mean_over_seeds(figures))
        if figures:
            return f"{figures[0]:.4g}"
        last = [max(point.history.items()) for point in self.points if point.history]
        return ", ".join(f"{value:.4g} at step {step}" for step, value in last)

    @property
    def status(self) -> str:
        names = [point.status for point in self.points]
        if len(names) == 1:
            return names[0]
        return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def settings(sweep: Sweep, points: list[SweepPoint]) -> list[Setting]:
    """The best first; those with fewer finished seeds than others behind them, whatever their mean."""
    groups = group_by_values(points, _values_without_seed)
    sign = -1 if sweep.goal == "maximize" else 1
    made = [Setting(_values_without_seed(group[0]), sorted(group, key=lambda p: p.value is None)) for group in groups]
    return sorted(made, key=lambda s: (-len(s.figures), sign * (s.mean or 0)))


def _values_without_seed(point: SweepPoint) -> dict[str, Any]:
    return {name: value for name, value in point.values.items() if name != SEED}


def command(sweep: Sweep, setting: Setting) -> str:
    """What runs a setting again, with all its seeds."""
    seeds = [str(point.values[SEED]) for point in setting.points if SEED in point.values]
    values = {name: ",".join(seeds) if name == SEED else setting.values[name] for name in sweep.parameters}
    flags = ["-m"] if len(seeds) > 1 else []
    return shlex.join(["python", "-m", "r1.run", *flags, *sweep.overrides(values)])


def final_summary(study: Study, place: str) -> RenderableType:
    """The table, the best, what failed, and what to look at next."""
    sweep, points = study.sweep, study.points()
    found = settings(sweep, points)
    failed = [point for point in points if point.status == "failed"]
    lines = [f"{point.folder.name} failed: {point.error}; see {point.folder / 'output.log'}" for point in failed]
    if found and found[0].figures:
        seeds = f" over {len(found[0].figures)} seeds" if len(found[0].figures) > 1 else ""
        values = " ".join(f"{name}={value}" for name, value in found[0].values.items())
        lines += [f"best: {sweep.metric} {found[0].text}{seeds}: {values}", f"again: {command(sweep, found[0])}"]
    lines += [f"page: python -m r1.sweep {sweep.path} --report", f"study: optuna-dashboard {place}"]
    return Group(_table(study, found), *map(status_line, lines))


def _table(study: Study, found: list[Setting]) -> Table:
    names = [name for name in study.space.parameters if name != SEED]
    columns = [Column(name, overflow="fold") for name in (*names, study.sweep.metric)]
    many = any(len(setting.points) > 1 for setting in found)
    table = Table(*columns, *(["seeds"] if many else []), "status", "runs", box=SIMPLE_HEAD, pad_edge=False)
    for setting in found:
        records = " ".join(sorted(point.folder.name for point in setting.points))
        cells = [str(setting.values[name]) for name in names] + [setting.text]
        cells += [str(len(setting.figures))] if many else []
        table.add_row(*map(escape, [*cells, setting.status, records]))
    return table
