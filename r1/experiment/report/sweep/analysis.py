"""A sweep's runs, worked out: points, curves, importance, and how sure it is which point is the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r1.core.runs import RunRecord
from r1.experiment.report.sweep.baseline import default
from r1.experiment.report.sweep.effects import Importance, Response, importance, levels_of, response
from r1.experiment.report.sweep.info import SweepInfo, asked
from r1.experiment.report.sweep.points import Difference, Point, difference, labels, points, ranked, shown
from r1.experiment.report.sweep.trials import Trial, Values, trials

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """A point against the winner.

    Attributes:
        difference: the point less the winner; None: nothing says how far noise reaches.
        chance: one-sided p that it is worse only by noise, times the number of comparisons.
    """

    point: Point
    difference: Difference | None
    chance: float

    @property
    def tied(self) -> bool:
        """Whether it cannot be told apart from the winner at 95 %."""
        return self.chance >= ALPHA


@dataclass(frozen=True)
class Analysis:
    """Everything that the page and the verdict say.

    Attributes:
        points: the best mean first.
        winner: the best mean of the points that enough seeds have finished for; None: no run has.
        comparisons: every other such point against the winner.
        default: conf's values of the parameters; None: not known.
        compared: the default's own comparison; None: it is the winner, or no such point, or it has not finished.
    """

    asked: SweepInfo
    names: list[str]
    trials: list[Trial]
    points: list[Point]
    winner: Point | None
    comparisons: list[Comparison]
    default: Values | None
    compared: Comparison | None
    responses: list[Response]
    importance: Importance | None

    def name(self, values: Values) -> str:
        """A point in a sentence."""
        short = labels(self.names)
        return ", ".join(f"{short[name]}={shown(value)}" for name, value in values.items())

    @property
    def several_seeds(self) -> bool:
        return self.winner is not None and len(self.winner.by_seed) > 1

    @property
    def tied(self) -> list[Comparison]:
        return [one for one in self.comparisons if one.tied]


def analyse(runs: Sequence[RunRecord], folder: Path | None) -> Analysis | None:
    """The sweep that some runs are, by its file in ``folder`` or by what they differ in; None: they are no sweep."""
    told = asked(folder, runs)
    every = trials(runs, told.parameters, told.metric)
    names = [name for name in told.parameters if len({str(trial.values[name]) for trial in every}) > 1]
    if not names:
        return None
    made = points(every := trials(runs, names, told.metric), told.maximize)
    found = ranked(made)
    winner = found[0] if found else None
    comparisons = compare(found, 1 if told.maximize else -1)
    usual = default(runs[0], names) if winner else None
    counted = [trial for point in made for trial in point.counted]
    return Analysis(
        asked=told,
        names=names,
        trials=every,
        points=made,
        winner=winner,
        comparisons=comparisons,
        default=usual,
        compared=next((one for one in comparisons if one.point.values == usual), None),
        responses=[response(counted, name) for name in names if counted and levels_of(counted, name)[0]],
        importance=importance(counted, made, names),
    )


def compare(found: Sequence[Point], sign: int) -> list[Comparison]:
    """Every point but the first against it, one-sided, with Bonferroni's correction for so many comparisons.

    The winner and the points tied with it hold the truly best one with 95 % confidence, although the winner was
    picked: for the best one to be left out, one of its rivals must be ahead of it by noise at a level that is the
    error divided by their number (Gupta's subset selection, with a paired t for each pair).
    """
    rivals = len(found) - 1
    made = []
    for point in found[1:]:
        ahead = difference(found[0], point)
        chance = min(1.0, rivals * ahead.chance(sign)) if ahead else 1.0
        back = Difference(0.0 - ahead.value, ahead.se, ahead.df, ahead.basis) if ahead else None
        made.append(Comparison(point, back, chance))
    return made
