"""The distributions of numbers that a sweep file may name, with W&B's meaning: the value at every quantile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

from r1.experiment.sweep.parameters import Spec


@dataclass(frozen=True)
class Distribution:
    """A distribution of numbers.

    Attributes:
        defaults: of what its specification may leave out.
        at: its value at a quantile in [0, 1).
        bounds: the least and the greatest value; those of an unbounded one, apart from a tail on either side.
        log: whether it is spread over orders of magnitude.
    """

    defaults: Spec
    at: Callable[[Spec, float], float]
    bounds: Callable[[Spec, float], tuple[float, float]]
    log: bool = False


def _normal(spec: Spec, u: float) -> float:
    return NormalDist(spec["mu"], spec["sigma"]).inv_cdf(u or 2**-53)


def _beta(spec: Spec, u: float) -> float:
    """Any draw that u alone decides: the quantile function is not in the standard library."""
    return Random(u).betavariate(spec["a"], spec["b"])


def _line(spec: Spec, u: float) -> float:
    return float(spec["min"] + u * (spec["max"] - spec["min"]))


def _log_uniform(spec: Spec, u: float) -> float:
    return math.exp(_line({key: math.log(spec[key]) for key in ("min", "max")}, u))


def _given(spec: Spec, _: float) -> tuple[float, float]:
    return spec["min"], spec["max"]


STANDARD_NORMAL: Spec = {"mu": 0.0, "sigma": 1.0}
BETA: Spec = {"a": 1.0, "b": 1.0}
FAMILIES = {
    "uniform": Distribution({}, _line, _given),
    "log_uniform": Distribution(  # between e^min and e^max
        {}, lambda s, u: math.exp(_line(s, u)), lambda s, _: (math.exp(s["min"]), math.exp(s["max"])), log=True
    ),
    "log_uniform_values": Distribution({}, _log_uniform, _given, log=True),
    "inv_log_uniform": Distribution(  # between e^-max and e^-min
        {},
        lambda s, u: math.exp(-_line(s, 1 - u)),
        lambda s, _: (math.exp(-s["max"]), math.exp(-s["min"])),
        log=True,
    ),
    "inv_log_uniform_values": Distribution({}, _log_uniform, _given, log=True),
    "normal": Distribution(STANDARD_NORMAL, _normal, lambda s, tail: (_normal(s, tail), _normal(s, 1 - tail))),
    "log_normal": Distribution(
        STANDARD_NORMAL,
        lambda s, u: math.exp(_normal(s, u)),
        lambda s, tail: (math.exp(_normal(s, tail)), math.exp(_normal(s, 1 - tail))),
        log=True,
    ),
    "beta": Distribution(BETA, lambda s, u: Random(u).betavariate(s["a"], s["b"]), lambda *_: (0.0, 1.0)),
}
