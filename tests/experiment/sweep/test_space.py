"""Parameters: what W&B's engine draws, in its order, and everything that it could not be refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from r1.core.errors import UserError
from r1.experiment.sweep.file import Sweep
from r1.experiment.sweep.parameters import KEYS_BY_DISTRIBUTION
from r1.experiment.sweep.points import num_points
from r1.experiment.sweep.space import SearchSpace

QUANTILES: list[tuple[dict[str, Any], list[Any]]] = [  # at 0.1, 0.53 and 0.93, by sweeps 0.3.0: HyperParameter.ppf
    ({"min": 0.5, "max": 2.0}, [0.65, 1.295, 1.895]),
    ({"min": 1, "max": 9}, [1, 5, 9]),
    ({"values": ["a", "b", "c"], "probabilities": [0.2, 0.5, 0.3]}, ["a", "b", "c"]),
    ({"values": [1, 2, 3, 4]}, [1, 3, 4]),
    (
        {"distribution": "log_uniform_values", "min": 1e-06, "max": 0.001},
        [1.995262314969e-06, 3.890451449943e-05, 0.0006165950018615],
    ),
    (
        {"distribution": "log_uniform", "min": -3, "max": 1},
        [0.07427357821433, 0.4147829116816, 2.054433210644],
    ),
    (
        {"distribution": "inv_log_uniform", "min": -3, "max": 1},
        [0.548811636094, 3.064854203293, 15.18032224495],
    ),
    (
        {"distribution": "inv_log_uniform_values", "min": 0.001, "max": 0.1},
        [0.001584893192461, 0.01148153621497, 0.0724435960075],
    ),
    ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.1}, [0.1, 0.5, 0.9]),
    ({"distribution": "q_uniform", "min": 0, "max": 64, "q": 8}, [8, 32, 56]),
    ({"distribution": "q_uniform", "min": 1, "max": 5}, [1.0, 3.0, 5.0]),
    ({"distribution": "q_log_uniform_values", "min": 8, "max": 512, "q": 8}, [16, 72, 384]),
    ({"distribution": "q_log_uniform", "min": 0, "max": 5, "q": 2}, [2, 14, 104]),
    ({"distribution": "normal", "mu": 1.0, "sigma": 2.0}, [-1.563103131089, 1.1505397242, 3.951582056358]),
    ({"distribution": "q_normal", "mu": 10, "sigma": 3, "q": 1}, [6, 10, 14]),
    ({"distribution": "log_normal"}, [0.277606241852, 1.078175070217, 4.374494753293]),
    ({"distribution": "q_log_normal", "mu": 1, "sigma": 1, "q": 0.25}, [0.75, 3.0, 12.0]),
]


def space(method: Any = "random", **parameters: Any) -> SearchSpace:
    return SearchSpace(Sweep(Path("s.yaml"), "s", method, "m", "maximize", parameters, [], None, None))


@pytest.mark.parametrize(("spec", "values"), QUANTILES, ids=lambda part: json.dumps(part))
def test_quantiles_match_wandb(spec: dict[str, Any], values: list[Any]) -> None:
    parameter = space(x=spec).parameters["x"]
    values_at = [parameter.at(u) for u in (0.1, 0.53, 0.93)]
    assert values_at == (pytest.approx(values, rel=1e-9) if isinstance(values[0], float) else values)
    assert [type(value) for value in values_at] == [type(value) for value in values]


def test_grid_points_have_the_order_of_wandb() -> None:
    quarter = {"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.1}
    grid = space("grid", b={"values": ["x", "y"]}, a={"min": 1, "max": 2}, c=quarter, k={"value": 7})
    assert num_points(grid.sweep) == 2 * 2 * 3
    points = [grid.values(grid.grid_point(number)) for number in range(12)]
    assert [list(point.values()) for point in points[:4]] == [
        ["x", 1, 0.0, 7],
        ["x", 1, 0.1, 7],
        ["x", 1, 0.2, 7],
        ["y", 1, 0.0, 7],
    ]
    assert list(points[0]) == ["b", "a", "c", "k"], "the file's order"
    assert points[-1] == {"b": "y", "a": 2, "c": 0.2, "k": 7}
    assert num_points(space(x={"min": 1, "max": 2}).sweep) is None


def test_beta_draws_have_its_mean_and_variance() -> None:
    at = space(x={"distribution": "beta", "a": 2.0, "b": 6.0}).parameters["x"].at
    values = [float(at(Random(i).random())) for i in range(2000)]
    mean = sum(values) / 2000
    assert mean == pytest.approx(2 / 8, abs=0.01)
    assert sum((value - mean) ** 2 for value in values) / 2000 == pytest.approx(12 / (64 * 9), abs=0.002)


SPECS = [spec for spec, _ in QUANTILES] + [{"distribution": "beta"}, {"distribution": "q_beta", "q": 0.5}]


@given(st.sampled_from(SPECS), st.floats(0, 1, exclude_max=True), st.sampled_from(["random", "bayes"]))
def test_every_draw_can_be_stored_in_optuna(spec: dict[str, Any], u: float, method: str) -> None:
    searched = space(method, x=spec)
    parameter = searched.parameters["x"]
    value = parameter.at(u)
    create_trial(state=TrialState.RUNNING, params={"x": value}, distributions=searched.distributions)
    assert parameter.snap(value) == value


def test_draws_depend_on_name_and_number_alone() -> None:
    one, two = space(x={"min": 0.0, "max": 1.0}, y={"min": 0.0, "max": 1.0}), space("bayes", x={"min": 0.0, "max": 1.0})
    assert one.random_point(3)["x"] == two.random_point(3)["x"] == one.random_point(3)["x"]
    assert len({one.random_point(number)[name] for number in range(20) for name in "xy"}) == 40


def test_optuna_distributions_match_the_parameters() -> None:
    searched = space(
        "bayes", g={"distribution": "q_log_uniform_values", "min": 8, "max": 512, "q": 8}, l={"values": [[1, 2]]}
    )
    assert searched.distributions["g"] == IntDistribution(8, 512, log=True)
    assert searched.distributions["l"] == optuna.distributions.CategoricalDistribution(["[1, 2]"])
    assert searched.snap_point({"g": 133, "l": "[1, 2]"}) == {"g": 136, "l": "[1, 2]"}
    bell = space("bayes", x={"distribution": "normal", "mu": 1.0, "sigma": 2.0}).distributions["x"]
    assert isinstance(bell, FloatDistribution)
    assert (bell.low, bell.high) == (pytest.approx(-5), pytest.approx(7))


def test_space_rejects_values_that_optuna_cannot_store() -> None:
    with pytest.raises(UserError, match="cannot tell these apart"):
        space(x={"values": [1, True]})
    with pytest.raises(UserError, match="nothing varies"):
        space("grid", x={"value": 1})


def test_every_distribution_can_be_drawn_from() -> None:
    for kind in KEYS_BY_DISTRIBUTION.keys() - {"constant", "categorical", "categorical_w_probabilities"}:
        bounds = {"min": 1, "max": 3} if "min" in KEYS_BY_DISTRIBUTION[kind][0] else {}
        assert isinstance(space(x={"distribution": kind} | bounds).random_point(0)["x"], int | float)
