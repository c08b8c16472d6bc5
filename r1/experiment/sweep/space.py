"""The parameters of a sweep file as Optuna's distributions, over the very values that a run is given.

A value at a quantile u is the one that W&B's engine draws at u. Which u is a function of the sweep's name, the point's
number and the parameter alone, so that any worker at any time draws the same point.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from r1.core import seeds
from r1.core.errors import UserError
from r1.experiment.sweep.distributions import Spec, distribution_of, grid_values, number_distribution
from r1.experiment.sweep.file import Sweep

Value = bool | int | float | str
SIGMAS, BAYES_SIGMAS = 6.0, 3.0  # where unbounded distributions are cut off, since Optuna wants bounds


@dataclass(frozen=True)
class SearchParameter:
    """One parameter that varies.

    Attributes:
        at: its value at a quantile in [0, 1).
        snap: the value to run for a number that Optuna proposes.
        grid: the values of a grid search, in order; empty: it cannot be enumerated.
    """

    distribution: BaseDistribution
    at: Callable[[float], Value]
    snap: Callable[[Any], Value]
    grid: Sequence[Value] = ()


class SearchSpace:
    """All parameters of a sweep; ``read_sweep`` has checked them.

    Raises:
        UserError: nothing varies, or Optuna cannot store the values that do.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        specs = sweep.parameters
        self.constants = {name: _storable(spec["value"]) for name, spec in specs.items() if "value" in spec}
        varied = {name: spec for name, spec in specs.items() if name not in self.constants}
        self.parameters = {name: _search_parameter(name, spec, sweep.method) for name, spec in varied.items()}
        if not varied:
            raise UserError("nothing varies", key="parameters", value=list(self.constants), hint="values: [...]")

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: parameter.distribution for name, parameter in self.parameters.items()}

    def grid_point(self, number: int) -> dict[str, Value]:
        """Point ``number`` of a grid, in W&B's order: the last name of the alphabet varies fastest."""
        point: dict[str, Value] = {}
        for name in sorted(self.parameters, reverse=True):
            number, index = divmod(number, len(self.parameters[name].grid))
            point[name] = self.parameters[name].grid[index]
        return point

    def random_point(self, number: int) -> dict[str, Value]:
        """Point ``number`` of a random search."""
        keys = {name: seeds.derive_seed(self.sweep.name, "sweep", number, name) for name in self.parameters}
        return {name: parameter.at(Random(keys[name]).random()) for name, parameter in self.parameters.items()}

    def snap_point(self, params: dict[str, Any]) -> dict[str, Value]:
        """A point that Optuna proposes, moved to values that the file allows."""
        return {name: self.parameters[name].snap(value) for name, value in params.items()}

    def values(self, params: dict[str, Any]) -> dict[str, Any]:
        """All parameters of a point, constants included, in the file's order."""
        return {name: self.constants.get(name, params.get(name)) for name in self.sweep.parameters}


def _search_parameter(name: str, spec: Spec, method: str) -> SearchParameter:
    distribution = str(distribution_of(spec))
    if distribution.startswith("categorical"):
        choices = [_storable(value) for value in spec["values"]]
        if len(set(choices)) < len(choices):  # 1 and true
            raise UserError("Optuna cannot tell these apart", key=f"parameters.{name}.values", value=choices)
        return _categorical(choices, spec.get("probabilities", ()))
    if distribution == "int_uniform":
        values = range(spec["min"], spec["max"] + 1)
        ints = IntDistribution(values[0], values[-1])
        return SearchParameter(ints, lambda u: values[int(u * len(values))], int, values)
    if distribution == "q_uniform" and method == "grid":
        return _categorical(grid_values(spec))
    numbers = number_distribution(spec, BAYES_SIGMAS if method == "bayes" else SIGMAS)
    log = numbers.log and numbers.low > 0  # rounding to multiples of q may have made it 0
    bounds: BaseDistribution = FloatDistribution(numbers.low, numbers.high, log=log)
    if isinstance(numbers.low, int) and isinstance(numbers.high, int):
        bounds = IntDistribution(numbers.low, numbers.high, log=log)
    return SearchParameter(bounds, numbers.at, numbers.snap)


def _categorical(values: Sequence[Value], weights: Sequence[float] = ()) -> SearchParameter:
    """One of several values, equally likely or by weight."""
    sums = list(accumulate(weights or [1.0] * len(values)))
    possible = [value for value, weight in zip(values, weights, strict=True) if weight] if weights else list(values)

    def at(u: float) -> Value:
        return values[min(bisect(sums, u * sums[-1]), len(values) - 1)]

    return SearchParameter(CategoricalDistribution(possible), at, lambda value: value, () if weights else possible)


def _storable(value: Any) -> Any:
    """A value as Optuna can store it: a list as its text on a command line."""
    return str(value) if isinstance(value, list) else value
