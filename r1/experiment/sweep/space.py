"""The parameters of a sweep file as Optuna's distributions, over the very values that a run is given.

What W&B's engine draws at a quantile u is drawn here at that u; which u is a function of the sweep's name, the point's
number and the parameter alone, so that it matters neither who draws nor when.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from random import Random
from statistics import NormalDist
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from r1.core import seeds
from r1.core.errors import UserError
from r1.experiment.sweep.distributions import FAMILIES
from r1.experiment.sweep.file import Sweep
from r1.experiment.sweep.parameters import Spec, distribution

Value = bool | int | float | str
FAR, TAILS = 1e-9, {"bayes": NormalDist().cdf(-3)}  # of an unbounded distribution, left out on either side


@dataclass(frozen=True)
class Parameter:
    """One that varies.

    Attributes:
        at: its value at a quantile in [0, 1).
        snap: the value to run for a number that Optuna proposes.
        grid: what a grid search tries, in order; empty: it cannot.
    """

    distribution: BaseDistribution
    at: Callable[[float], Value]
    snap: Callable[[Any], Value]
    grid: Sequence[Value] = ()


class Space:
    """All parameters of a sweep.

    Raises:
        UserError: nothing varies, or Optuna cannot keep what does; all else the file's reader has seen.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        specs = sweep.parameters
        self.constants = {name: _plain(spec["value"]) for name, spec in specs.items() if "value" in spec}
        varied = {name: spec for name, spec in specs.items() if name not in self.constants}
        self.parameters = {name: _parameter(name, spec, sweep.method) for name, spec in varied.items()}
        if not varied:
            raise UserError("nothing varies", key="parameters", value=list(self.constants), hint="values: [...]")

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: parameter.distribution for name, parameter in self.parameters.items()}

    @property
    def size(self) -> int | None:
        """How many points a grid has; None: it is none, and does not end."""
        grid = self.sweep.method == "grid"
        return math.prod(len(parameter.grid) for parameter in self.parameters.values()) if grid else None

    def nth(self, number: int) -> dict[str, Value]:
        """Point ``number`` of a grid, in W&B's order: the last name of the alphabet varies fastest."""
        point: dict[str, Value] = {}
        for name in sorted(self.parameters, reverse=True):
            number, index = divmod(number, len(self.parameters[name].grid))
            point[name] = self.parameters[name].grid[index]
        return point

    def drawn(self, number: int) -> dict[str, Value]:
        """Point ``number`` of a random search."""
        keys = {name: seeds.derive_seed(self.sweep.name, "sweep", number, name) for name in self.parameters}
        return {name: parameter.at(Random(keys[name]).random()) for name, parameter in self.parameters.items()}

    def snapped(self, params: dict[str, Any]) -> dict[str, Value]:
        """What Optuna proposes, as what the file allows."""
        return {name: self.parameters[name].snap(value) for name, value in params.items()}

    def values(self, params: dict[str, Any]) -> dict[str, Any]:
        """All parameters of a point in the file's order."""
        return {name: self.constants.get(name, params.get(name)) for name in self.sweep.parameters}


def _parameter(name: str, spec: Spec, method: str) -> Parameter:
    kind = str(distribution(spec))
    if kind.startswith("categorical"):
        return _categorical(name, spec)
    if kind == "int_uniform":
        grid = range(spec["min"], spec["max"] + 1)
        return Parameter(IntDistribution(grid[0], grid[-1]), lambda u: grid[int(u * len(grid))], int, grid)
    if kind == "q_uniform" and method == "grid":
        return _one_of(_steps(spec["min"], spec["max"], spec.get("q", 1.0)))
    return _number(kind, spec, method)


def _categorical(name: str, spec: Spec) -> Parameter:
    choices = [_plain(value) for value in spec["values"]]
    if len(set(choices)) < len(choices):  # 1 and true
        raise UserError("Optuna cannot tell these apart", key=f"parameters.{name}.values", value=choices)
    return _one_of(choices, spec.get("probabilities", ()))


def _number(kind: str, spec: Spec, method: str) -> Parameter:
    family = FAMILIES[kind.removeprefix("q_")]
    knobs, q = family.defaults | spec, spec.get("q", 1.0) if kind.startswith("q_") else None
    low, high = (_multiple(bound, q) for bound in family.bounds(knobs, TAILS.get(method, FAR)))
    log = family.log and low > 0
    made: BaseDistribution = FloatDistribution(low, high, log=log)
    if isinstance(low, int) and isinstance(high, int):
        made = IntDistribution(low, high, log=log)

    def snap(value: float) -> Value:
        return min(max(_multiple(value, q), low), high)

    return Parameter(made, lambda u: snap(family.at(knobs, u)), snap)


def _one_of(values: Sequence[Value], weights: Sequence[float] = ()) -> Parameter:
    """One of some values, each as likely as the others or by its weight."""
    sums = list(accumulate(weights or [1.0] * len(values)))
    possible = [value for value, weight in zip(values, weights, strict=True) if weight] if weights else list(values)

    def at(u: float) -> Value:
        return values[min(bisect(sums, u * sums[-1]), len(values) - 1)]

    return Parameter(CategoricalDistribution(possible), at, lambda value: value, () if weights else possible)


def _steps(low: float, high: float, q: float) -> list[Value]:
    """``numpy.arange``, which W&B takes: ``high`` is not among them."""
    start, step = Decimal(str(low)), Decimal(str(q))
    whole = isinstance(low, int) and isinstance(q, int)
    count = math.ceil((Decimal(str(high)) - start) / step)
    return [int(start + i * step) if whole else float(start + i * step) for i in range(count)]


def _multiple(value: float, q: float | None) -> int | float:
    """The nearest multiple of q, without the dust of binary fractions; whole if q is; q None: any number."""
    if q is None:
        return float(value)
    times = round(value / q)
    return times * q if isinstance(q, int) else float(times * Decimal(str(q)))


def _plain(value: Any) -> Any:
    """A value as Optuna can keep it: a list as the text that the command line would hold."""
    return str(value) if isinstance(value, list) else value
