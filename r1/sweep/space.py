"""The parameters of a sweep file as Optuna's distributions, over the very values that a run is given.

What W&B's engine draws at a quantile u is drawn here at that u; which u is a function of the sweep's name, the point's
number and the parameter alone, so that it matters neither who draws nor when.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from random import Random
from statistics import NormalDist
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from r1 import seeds
from r1.errors import UserError, nearest, null
from r1.sweep.families import FAMILIES, KINDS, RANGE
from r1.sweep.file import Spec, Sweep

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
        UserError: one that cannot be searched here, and why.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.constants = {name: _constant(name, spec) for name, spec in sweep.parameters.items() if _is_fixed(spec)}
        varied = {name: spec for name, spec in sweep.parameters.items() if name not in self.constants}
        self.parameters = {name: _parameter(name, spec, sweep.method) for name, spec in varied.items()}
        if not varied:
            raise UserError("nothing varies", where="parameters", given=list(self.constants), do="values: [...]")
        for name, parameter in self.parameters.items():
            if sweep.method == "grid" and not parameter.grid:
                given, allowed = _kind(name, varied[name]), "values, int_uniform, q_uniform"
                do = "method: random or bayes, or write its values: [...]"
                raise UserError("a grid has no steps in it", where=_where(name), given=given, allowed=allowed, do=do)

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
        keys = {name: seeds.key(self.sweep.name, "sweep", number, name) for name in self.parameters}
        return {name: parameter.at(Random(keys[name]).random()) for name, parameter in self.parameters.items()}

    def snapped(self, params: dict[str, Any]) -> dict[str, Value]:
        """What Optuna proposes, as what the file allows."""
        return {name: self.parameters[name].snap(value) for name, value in params.items()}

    def values(self, params: dict[str, Any]) -> dict[str, Any]:
        """All parameters of a point in the file's order."""
        return {name: self.constants.get(name, params.get(name)) for name in self.sweep.parameters}


def _is_fixed(spec: Any) -> bool:
    return isinstance(spec, dict) and "value" in spec


def _constant(name: str, spec: Spec) -> Any:
    _check_keys(name, "constant", spec, ("value",))
    return _plain(name, spec["value"])


def _parameter(name: str, spec: Any, method: str) -> Parameter:
    if not isinstance(spec, dict) or "parameters" in spec:
        do = f"write every key by its dotted name: {name}.KEY: {{values: [...]}}"
        raise UserError("a parameter is given by its values or its distribution", where=_where(name), given=spec, do=do)
    kind = _kind(name, spec)
    if kind in ("categorical", "categorical_w_probabilities"):
        return _categorical(name, kind, spec)
    if kind == "int_uniform":
        return _int_uniform(name, spec)
    return _number(name, kind, spec, method)


def _kind(name: str, spec: Spec) -> str:
    """The distribution that is named, or that W&B takes for granted."""
    if "distribution" in spec:
        kind = spec["distribution"]
        if kind not in KINDS:
            what, do = "there is no such distribution", nearest(str(kind), KINDS)
            raise UserError(what, where=_where(name, "distribution"), given=null(kind), allowed=KINDS, do=do)
        return str(kind)
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" in spec and "max" in spec:
        return "int_uniform" if isinstance(spec["min"], int) and isinstance(spec["max"], int) else "uniform"
    allowed = "value, values, min and max, distribution"
    raise UserError("there is no telling what to try", where=_where(name), given=spec, allowed=allowed)


def _categorical(name: str, kind: str, spec: Spec) -> Parameter:
    weighted = kind == "categorical_w_probabilities"
    _check_keys(name, kind, spec, ("values", "probabilities") if weighted else ("values",))
    values = spec.get("values")
    if not isinstance(values, list) or not values:
        raise UserError("values is a list", where=_where(name, "values"), given=null(values), allowed="[A, B, ...]")
    choices = [_plain(name, value) for value in values]
    texts = dict(zip(map(str, choices), choices, strict=True))
    if weighted:
        return _one_of(choices, _weights(name, spec.get("probabilities"), len(choices)))
    if len(set(texts.values())) < len(texts):
        raise UserError("some of these are equal, and others not", where=_where(name, "values"), given=values)
    return _one_of(list(texts.values()))


def _weights(name: str, given: Any, count: int) -> list[float]:
    fits = isinstance(given, list) and len(given) == count and all(isinstance(share, int | float) for share in given)
    if not fits or min(given) < 0 or not math.isclose(sum(given), 1.0):
        allowed = f"{count} numbers that sum to 1"
        what = "probabilities do not fit the values"
        raise UserError(what, where=_where(name, "probabilities"), given=null(given), allowed=allowed)
    return [float(weight) for weight in given]


def _int_uniform(name: str, spec: Spec) -> Parameter:
    _check_keys(name, "int_uniform", spec, ("min", "max"))
    low, high = _knobs(name, spec, RANGE, ()).values()
    if not (isinstance(low, int) and isinstance(high, int)):
        raise UserError("int_uniform is between whole numbers", where=_where(name), given=spec)
    grid = range(low, high + 1)
    return Parameter(IntDistribution(low, high), lambda u: grid[int(u * len(grid))], int, grid)


def _number(name: str, kind: str, spec: Spec, method: str) -> Parameter:
    family = FAMILIES[kind.removeprefix("q_")]
    keys = family.keys | ({"q": 1.0} if kind.startswith("q_") else {})
    _check_keys(name, kind, spec, keys)
    knobs = _knobs(name, spec, keys, ("q", *family.positive))
    if kind == "q_uniform" and method == "grid":
        return _one_of(_steps(knobs["min"], knobs["max"], knobs["q"]))
    low, high = (_multiple(bound, knobs.get("q")) for bound in family.bounds(knobs, TAILS.get(method, FAR)))
    log = family.log and low > 0
    distribution: BaseDistribution = FloatDistribution(low, high, log=log)
    if isinstance(low, int) and isinstance(high, int):
        distribution = IntDistribution(low, high, log=log)

    def snap(value: float) -> Value:
        return min(max(_multiple(value, knobs.get("q")), low), high)

    return Parameter(distribution, lambda u: snap(family.at(knobs, u)), snap)


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


def _plain(name: str, value: Any) -> Value:
    """A value as Optuna can keep it: a list as the text that the command line would hold."""
    if isinstance(value, list):
        return str([_plain(name, item) for item in value])
    if isinstance(value, bool | int | float | str):
        return value
    do = 'write "null"' if value is None else "sweep its keys one by one"
    raise UserError("this cannot stand on a command line", where=_where(name), given=null(value), do=do)


def _knobs(name: str, spec: Spec, keys: Mapping[str, float | None], positive: Sequence[str]) -> dict[str, Any]:
    """The numbers of a distribution, those in ``positive`` above 0."""
    knobs: dict[str, Any] = {key: spec.get(key, default) for key, default in keys.items()}
    for key, value in knobs.items():
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or (key in positive and value <= 0):
            allowed = "a number above 0" if key in positive else "a number"
            do = "YAML reads 1e-6 as text: write 1.0e-6" if isinstance(value, str) else ""
            what = f"{key} does not fit the distribution"
            raise UserError(what, where=_where(name, key), given=null(value), allowed=allowed, do=do)
    if "min" in knobs and knobs["min"] >= knobs["max"]:
        raise UserError("min is below max", where=_where(name, "min"), given=knobs["min"], allowed=f"< {knobs['max']}")
    return knobs


def _check_keys(name: str, kind: str, spec: Spec, keys: Iterable[str]) -> None:
    for key in spec:
        if key not in (*keys, "distribution"):
            do = nearest(str(key), keys)
            what = f"a {kind} parameter does not read `{key}`"
            raise UserError(what, where=_where(name, str(key)), given=null(spec[key]), allowed=keys, do=do)


def _where(name: str, *keys: str) -> str:
    return ".".join(["parameters", name, *keys])
