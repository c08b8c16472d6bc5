"""The distributions that a sweep file may name, with W&B's meaning: their keys, quantiles, bounds and grids.

Nothing here needs Optuna, so a sweep file can be checked without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random
from statistics import NormalDist
from typing import Any

Spec = dict[str, Any]  # one parameter as the file has it: value, values, min, max, distribution, ...
BOUNDS, NORMAL = ("min", "max"), ("mu", "sigma")
KEYS_BY_DISTRIBUTION: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # required keys, optional keys
    "constant": (("value",), ()),
    "categorical": (("values",), ()),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": (BOUNDS, ()),
    "uniform": (BOUNDS, ()),
    "q_uniform": (BOUNDS, ("q",)),
    "log_uniform": (BOUNDS, ()),
    "q_log_uniform": (BOUNDS, ("q",)),
    "inv_log_uniform": (BOUNDS, ()),
    "log_uniform_values": (BOUNDS, ()),
    "q_log_uniform_values": (BOUNDS, ("q",)),
    "inv_log_uniform_values": (BOUNDS, ()),
    "normal": ((), NORMAL),
    "q_normal": ((), (*NORMAL, "q")),
    "log_normal": ((), NORMAL),
    "q_log_normal": ((), (*NORMAL, "q")),
    "beta": ((), ("a", "b")),
    "q_beta": ((), ("a", "b", "q")),
}
GRID_DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "q_uniform")  # those with a list of values
EXPONENT_DISTRIBUTIONS = ("log_uniform", "q_log_uniform", "inv_log_uniform")  # min and max are exponents of e
MAX_EXPONENT = 200.0  # larger values are of no use, and beyond 709 floats overflow


@dataclass(frozen=True)
class Distribution:
    """A distribution of real numbers.

    Attributes:
        quantile: from a number in [0, 1) to a value, which is not yet rounded.
        low, high: the least and the greatest value; of an unbounded distribution where its tails are cut off.
        middle: the median, or the mean of a beta distribution.
        log: whether it spreads over orders of magnitude.
        q: its values are multiples of it; None: any number.
    """

    quantile: Callable[[float], float]
    low: float
    middle: float
    high: float
    log: bool = False
    q: float | None = None

    def at(self, u: float) -> float:
        """Its value at a quantile in [0, 1)."""
        return self.snap(self.quantile(u))

    def snap(self, value: float) -> float:
        """The nearest of its values."""
        rounded = float(value) if self.q is None else nearest_multiple(value, self.q)
        return min(max(rounded, self.low), self.high)


def distribution_of(spec: Spec) -> str | None:
    """The name of the distribution that W&B assumes for a parameter; None: it could not tell."""
    if "distribution" in spec:
        return str(spec["distribution"])
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if not {"min", "max"} <= spec.keys():
        return None
    return "int_uniform" if isinstance(spec["min"], int) and isinstance(spec["max"], int) else "uniform"


def number_distribution(spec: Spec, sigmas: float) -> Distribution:
    """A distribution of real numbers.

    Args:
        sigmas: standard deviations from the mean at which an unbounded distribution is cut off.
    """
    name = str(distribution_of(spec))
    exact = _exact_distribution(name.removeprefix("q_"), spec, sigmas)
    if not name.startswith("q_"):
        return exact
    q = spec.get("q", 1.0)
    low, middle, high = (nearest_multiple(value, q) for value in (exact.low, exact.middle, exact.high))
    return replace(exact, low=low, middle=middle, high=high, q=q)


def _exact_distribution(name: str, spec: Spec, sigmas: float) -> Distribution:
    if name == "beta":
        a, b = spec.get("a", 1.0), spec.get("b", 1.0)
        # the standard library has no quantile function of beta: the quantile seeds a draw instead
        return Distribution(lambda u: Random(u).betavariate(a, b), 0.0, a / (a + b), 1.0)
    if name in ("normal", "log_normal"):
        return _normal(spec.get("mu", 0.0), spec.get("sigma", 1.0), sigmas, log=name == "log_normal")
    low, high = float(spec["min"]), float(spec["max"])
    if name == "uniform":
        return Distribution(_between(low, high), low, (low + high) / 2, high)
    if name.endswith("_values"):
        exponent = _between(math.log(low), math.log(high))
        return Distribution(lambda u: _exp(exponent(u)), low, math.sqrt(low * high), high, log=True)
    if name == "inv_log_uniform":
        low, high = -high, -low
    exponent = _between(low, high)
    return Distribution(lambda u: _exp(exponent(u)), _exp(low), _exp((low + high) / 2), _exp(high), log=True)


def _normal(mu: float, sigma: float, sigmas: float, log: bool) -> Distribution:
    normal = NormalDist(mu, sigma)
    scale: Callable[[float], float] = _exp if log else float
    low, middle, high = (scale(mu + k * sigma) for k in (-sigmas, 0, sigmas))
    return Distribution(lambda u: scale(normal.inv_cdf(u or 2**-53)), low, middle, high, log)  # inv_cdf(0) is -inf


def _between(low: float, high: float) -> Callable[[float], float]:
    return lambda u: float(low + u * (high - low))


def _exp(exponent: float) -> float:
    return math.exp(min(exponent, MAX_EXPONENT))


def nearest_multiple(value: float, q: float) -> int | float:
    """The nearest multiple of q: 0.3 and not 0.30000000000000004, and an int if q is one."""
    times = round(value / q)
    return times * q if isinstance(q, int) else float(times * Decimal(str(q)))


def num_grid_values(spec: Spec) -> int:
    """How many values a grid takes of one parameter, as W&B enumerates them: q_uniform without its upper end."""
    if "value" in spec:
        return 1
    if "values" in spec:
        return len(spec["values"])
    if distribution_of(spec) == "int_uniform":
        return int(spec["max"] - spec["min"] + 1)
    low, high, q = (Decimal(str(number)) for number in (spec["min"], spec["max"], spec.get("q", 1)))
    return math.ceil((high - low) / q)


def grid_values(spec: Spec, most: int | None = None) -> list[Any]:
    """The values that a grid takes of one parameter; at ``most`` so many, evenly spread and with both ends."""
    total = num_grid_values(spec)
    indices = range(total) if most is None or total <= most else [i * (total - 1) // (most - 1) for i in range(most)]
    if "value" in spec or "values" in spec:
        values = spec.get("values", [spec.get("value")])
        return [values[i] for i in indices]
    low, q = spec["min"], 1 if distribution_of(spec) == "int_uniform" else spec.get("q", 1.0)
    if isinstance(low, int) and isinstance(q, int):
        return [low + i * q for i in indices]
    return [float(Decimal(str(low)) + i * Decimal(str(q))) for i in indices]
