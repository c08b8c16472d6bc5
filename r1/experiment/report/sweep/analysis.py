"""The analysis of a sweep's runs: points, response curves, importance, and how certain the best point is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r1.core.runs import RunRecord
from r1.experiment.report.sweep.baseline import baseline_values
from r1.experiment.report.sweep.effects import Importance, Response, importance, levels_of, response
from r1.experiment.report.sweep.info import SweepInfo, sweep_info
from r1.experiment.report.sweep.points import (
    Difference,
    TrialGroup,
    comparable,
    difference,
    group_trials,
    labels,
    value_text,
)
from r1.experiment.report.sweep.trials import Trial, Values, make_trials

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """A point compared with the winner.

    Attributes:
        difference: the point less the winner; None: there is no estimate of the noise.
        p_value: one-sided p that it is worse only by noise, times the number of comparisons.
    """

    point: TrialGroup
    difference: Difference | None
    p_value: float

    @property
    def tied(self) -> bool:
        """Whether it does not differ from the winner at 95 %."""
        return self.p_value >= ALPHA


@dataclass(frozen=True)
class Analysis:
    """Everything that the page and the conclusion read.

    Attributes:
        points: the best mean first.
        winner: the best mean among the points with enough finished seeds; None: no run has finished.
        comparisons: every other such point against the winner.
        default: conf's values of the parameters; None: unknown.
        default_comparison: the default against the winner; None: it is the winner, no point, or unfinished.
    """

    info: SweepInfo
    names: list[str]
    trials: list[Trial]
    points: list[TrialGroup]
    winner: TrialGroup | None
    comparisons: list[Comparison]
    default: Values | None
    default_comparison: Comparison | None
    responses: list[Response]
    importance: Importance | None

    def name(self, values: Values) -> str:
        """A point in a sentence."""
        short = labels(self.names)
        return ", ".join(f"{short[name]}={value_text(value)}" for name, value in values.items())

    @property
    def several_seeds(self) -> bool:
        return self.winner is not None and len(self.winner.by_seed) > 1

    @property
    def tied(self) -> list[Comparison]:
        return [comparison for comparison in self.comparisons if comparison.tied]


def analyse(runs: Sequence[RunRecord], folder: Path | None) -> Analysis | None:
    """The sweep of some runs, by the sweep file in ``folder`` or by their differences; None: they are no sweep."""
    info = sweep_info(folder, runs)
    all_trials = make_trials(runs, info.parameters, info.metric)
    names = [name for name in info.parameters if len({str(trial.values[name]) for trial in all_trials}) > 1]
    if not names:
        return None
    trials = make_trials(runs, names, info.metric)
    points = group_trials(trials, info.maximize)
    candidates = comparable(points)
    winner = candidates[0] if candidates else None
    comparisons = compare(candidates, 1 if info.maximize else -1)
    default = baseline_values(runs[0], names) if winner else None
    counted = [trial for point in points for trial in point.counted]
    return Analysis(
        info=info,
        names=names,
        trials=trials,
        points=points,
        winner=winner,
        comparisons=comparisons,
        default=default,
        default_comparison=next((c for c in comparisons if c.point.values == default), None),
        responses=[response(counted, name) for name in names if counted and levels_of(counted, name)[0]],
        importance=importance(counted, points, names),
    )


def compare(ranked: Sequence[TrialGroup], sign: int) -> list[Comparison]:
    """Every point but the first against the first, one-sided, with Bonferroni's correction.

    The winner and the points tied with it contain the truly best point with 95 % confidence, although the winner was
    selected on the same data: the best point is excluded only if a rival leads it by noise at a level that is the
    error divided by the number of rivals (Gupta's subset selection, with a paired t for each pair).
    """
    rivals = len(ranked) - 1
    comparisons = []
    for point in ranked[1:]:
        lead = difference(ranked[0], point)
        p_value = min(1.0, rivals * lead.p_value(sign)) if lead else 1.0
        behind = Difference(0.0 - lead.value, lead.se, lead.df, lead.basis) if lead else None
        comparisons.append(Comparison(point, behind, p_value))
    return comparisons
