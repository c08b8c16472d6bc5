"""The points of a sweep that are checked before it runs: of a grid all, of ranges their ends, one at a time."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

from r1.experiment.sweep.distributions import (
    Spec,
    distribution_of,
    grid_values,
    num_grid_values,
    number_distribution,
)
from r1.experiment.sweep.file import Sweep

Values = dict[str, Any]  # of one point, by parameter
MAX_CHECKED = 40  # settings of a grid: as many take some ten seconds
SIGMAS = 3.0  # standard deviations from the mean at which a distribution without bounds is checked
SEED = "seed"


def values_to_check(spec: Spec) -> list[Any]:
    """The values at which one parameter of a search is checked, the middle one first."""
    if "value" in spec or "values" in spec:
        return grid_values(spec)
    if distribution_of(spec) == "int_uniform":
        return list(dict.fromkeys([round((spec["min"] + spec["max"]) / 2), spec["min"], spec["max"]]))
    numbers = number_distribution(spec, SIGMAS)
    return list(dict.fromkeys([numbers.middle, numbers.low, numbers.high]))


def grid_size(sweep: Sweep, *, seeds: bool) -> int:
    """The number of points of a grid; without ``seeds`` of its settings, which leave the seed out."""
    return math.prod(num_grid_values(spec) for name, spec in sweep.parameters.items() if seeds or name != SEED)


def num_points(sweep: Sweep) -> int | None:
    """How many points a sweep has; None: a search that continues until it is stopped."""
    if sweep.method != "grid":
        return sweep.run_cap
    size = grid_size(sweep, seeds=True)
    return min(size, sweep.run_cap or size)


def points_to_check(sweep: Sweep) -> list[Values]:
    """The points that are checked in place of all, with the first seed only: any other seed can be set, too.

    Of a search: every level of each parameter, the others at their middle. Of a grid: first every value of each
    parameter with the others at their first, then all others; where there are too many, some of both.
    """
    is_grid = sweep.method == "grid"
    levels = {
        name: grid_values(spec, MAX_CHECKED) if is_grid else values_to_check(spec)
        for name, spec in sweep.parameters.items()
    }
    levels = {name: values[:1] if name == SEED else values for name, values in levels.items()}
    first = {name: values[0] for name, values in levels.items()}
    points = [first] + [first | {name: value} for name, values in levels.items() for value in values[1:]]
    return points + [point for point in (_grid_points(levels) if is_grid else []) if point not in points]


def _grid_points(levels: dict[str, list[Any]]) -> list[Values]:
    """All combinations, or a fixed random sample of ``MAX_CHECKED``."""
    if math.prod(map(len, levels.values())) <= MAX_CHECKED:
        return [dict(zip(levels, point, strict=True)) for point in itertools.product(*levels.values())]
    rng = random.Random(0)
    return [{name: rng.choice(values) for name, values in levels.items()} for _ in range(MAX_CHECKED)]
