"""The points of a sweep that are checked before it runs: of a grid all, of ranges their ends, one at a time."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

from r1.experiment.sweep.file import Sweep
from r1.experiment.sweep.parameters import Spec, distribution

Values = dict[str, Any]  # of one point, by parameter
MAX_CHECKED = 40  # settings of a grid: as many take some ten seconds
SIGMAS = 3.0  # how far a distribution without bounds is looked at
MAX_EXPONENT = 200.0  # beyond it no value is of use, and floats end
SEED = "seed"


def count(spec: Spec) -> int:
    """How many values a grid takes of one parameter, as W&B enumerates them: q_uniform without its upper end."""
    if "value" in spec:
        return 1
    if "values" in spec:
        return len(spec["values"])
    if distribution(spec) == "int_uniform":
        return int(spec["max"] - spec["min"] + 1)
    steps: float = (spec["max"] - spec["min"]) / spec.get("q", 1)
    return math.ceil(steps - 1e-9)


def grid(spec: Spec, most: int | None = None) -> list[Any]:
    """The values themselves; of more than ``most`` so many, evenly spread, the first and the last among them."""
    total = count(spec)
    indices = range(total) if most is None or total <= most else [i * (total - 1) // (most - 1) for i in range(most)]
    if "value" in spec or "values" in spec:
        values = spec.get("values", [spec.get("value")])
        return [values[i] for i in indices]
    q = 1 if distribution(spec) == "int_uniform" else spec.get("q", 1)
    return [_rounded(spec["min"] + i * q, q) for i in indices]


def test_values(spec: Spec) -> list[Any]:
    """The values at which one parameter of a search is looked at, the middle one first."""
    kind = str(distribution(spec))
    if "value" in spec or "values" in spec:
        return grid(spec)
    low, middle, high = _range(kind.removeprefix("q_"), spec)
    if kind == "int_uniform":
        middle = round(middle)
    if kind.startswith("q_"):
        q = spec.get("q", 1)
        low, middle, high = (_rounded(round(x / q) * q, q) for x in (low, middle, high))
    return list(dict.fromkeys([middle, low, high]))


def _range(kind: str, spec: Spec) -> tuple[Any, Any, Any]:
    """Low, middle and high of what has no list of values."""
    if kind == "beta":
        a, b = spec.get("a", 1), spec.get("b", 1)
        return 0.0, a / (a + b), 1.0
    if kind in ("normal", "log_normal"):
        mu, reach = spec.get("mu", 0.0), SIGMAS * spec.get("sigma", 1.0)
        low, middle, high = mu - reach, mu, mu + reach
        return (low, middle, high) if kind == "normal" else (_exp(low), _exp(middle), _exp(high))
    low, high = spec["min"], spec["max"]
    if kind == "inv_log_uniform":
        low, high = -high, -low
    if kind.endswith("log_uniform"):
        low, high = _exp(low), _exp(high)
    return low, math.sqrt(low * high) if "log" in kind else (low + high) / 2, high


def _exp(exponent: float) -> float:
    return math.exp(min(exponent, MAX_EXPONENT))


def _rounded(value: float, q: float) -> Any:
    """A multiple of q without the dust of its arithmetic: 0.3 and not 0.30000000000000004."""
    return int(value) if isinstance(q, int) and float(value).is_integer() else round(value, 12)


def size(sweep: Sweep, *, seeds: bool) -> int:
    """Of a grid: its points, or its settings, which leave the seed out."""
    return math.prod(count(spec) for name, spec in sweep.parameters.items() if seeds or name != SEED)


def number(sweep: Sweep) -> int | None:
    """How many points a sweep has; None: a search goes on for as long as it is let."""
    if sweep.method != "grid":
        return sweep.run_cap
    count = size(sweep, seeds=True)
    return min(count, sweep.run_cap or count)


def points_to_check(sweep: Sweep) -> list[Values]:
    """The points that stand for all, each with the first seed: a seed that can be set at all can be set everywhere.

    Of a search: every level of each parameter, the others at their middle. Of a grid: first every value of each
    parameter with the others at their first, then all others; where there are too many, some of both.
    """
    is_grid = sweep.method == "grid"
    of = {name: grid(spec, MAX_CHECKED) if is_grid else test_values(spec) for name, spec in sweep.parameters.items()}
    of = {name: values[:1] if name == SEED else values for name, values in of.items()}
    first = {name: values[0] for name, values in of.items()}
    star = [first] + [first | {name: value} for name, values in of.items() for value in values[1:]]
    return star + [point for point in (_settings(of) if is_grid else []) if point not in star]


def _settings(of: dict[str, list[Any]]) -> list[Values]:
    if math.prod(map(len, of.values())) <= MAX_CHECKED:
        return [dict(zip(of, point, strict=True)) for point in itertools.product(*of.values())]
    draw = random.Random(0)
    return [{name: draw.choice(values) for name, values in of.items()} for _ in range(MAX_CHECKED)]
