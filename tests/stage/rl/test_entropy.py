"""The adapted entropy coefficient, by hand, against TRL's, through a checkpoint and over ranks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from slow import gradient

from r1.core.errors import UserErrors
from r1.core.types import Config
from r1.run import execute
from r1.stage.grpo import Grpo
from r1.stage.rl.entropy import EntropyBonus

Stages = Callable[..., Grpo]
ADAPTIVE = ["stage=grpo", "stage.entropy_target=1.0", "stage.entropy_coef=0.1", "stage.entropy_coef_delta=0.05"]


def bonus(coef: float = 0.0, target: float | None = 1.0, high: float = 0.12) -> EntropyBonus:
    return EntropyBonus(coef, target, delta=0.05, coef_min=0.0, coef_max=high)


def test_coefficient_grows_below_the_target_and_shrinks_above() -> None:
    made, steps = bonus(), []
    for entropy in (0.9, 1.0, 0.5, 1.1, 1.2, 1.3, 1.4):
        made.update(entropy)
        steps.append((round(made.coef, 6), round(made.weight, 6)))
    assert steps == [(0.05, 0.05), (0.1, 0.1), (0.12, 0.12), (0.07, 0.0), (0.02, 0.0), (0.0, 0.0), (0.0, 0.0)]


def test_first_step_has_no_bonus_before_an_entropy_is_measured() -> None:
    assert bonus(coef=0.1).weight == 0.0


def test_coefficient_without_target_is_constant() -> None:
    made = bonus(coef=0.1, target=None)
    made.update(0.0)
    made.load_state({"coef": 0.7, "entropy": 0.0})
    assert (made.coef, made.weight) == (0.1, 0.1)


def test_state_continues_the_same_coefficients() -> None:
    one, two = bonus(), bonus()
    one.update(0.5)
    two.load_state(one.state())
    for made in (one, two):
        made.update(0.9)
    assert one == two


def test_coefficients_match_trl_code() -> None:
    """TRL 1.16, ``_compute_loss``: <= target adds, else subtracts; the weight is 0 above the target."""
    made, coef, last = bonus(coef=0.03), 0.03, float("inf")
    for entropy in (1.5, 0.3, 0.2, 0.9, 1.0, 1.01, 0.99):
        assert made.weight == (coef if last <= 1.0 else 0.0)
        coef = min(coef + 0.05, 0.12) if entropy <= 1.0 else max(coef - 0.05, 0.0)
        last = entropy
        made.update(entropy)


def test_gradient_has_the_adapted_weight(stage: Stages) -> None:
    """After a step of entropy 0.4, the gradient is that of a constant coefficient of 0.1 + 0.05."""
    adapted, constant = stage(*ADAPTIVE), stage("stage=grpo", "stage.entropy_coef=0.15")
    adapted.check_step({"train/entropy": 0.4})
    batches = adapted.micro_batches(0)
    found, expected = gradient(adapted, batches), gradient(constant, constant.micro_batches(0))
    assert (found - expected).abs().max() < 1e-7
    assert adapted.step_metrics["train/entropy_coef"] == pytest.approx(0.15)
    plain = stage("stage=grpo")
    assert (gradient(plain, plain.micro_batches(0)) - found).abs().max() > 1e-4


def test_coefficient_is_in_the_checkpoint_of_every_rank(stage: Stages) -> None:
    made, resumed = stage(*ADAPTIVE), stage(*ADAPTIVE)
    made.check_step({"train/entropy": 0.4})
    resumed.load_loader_state([made.loader_state(4)])
    assert resumed.entropy_bonus == made.entropy_bonus
    made.check_step({})  # a step without trainable tokens measures nothing
    assert resumed.entropy_bonus == made.entropy_bonus


@pytest.mark.parametrize(
    ("knobs", "key"),
    [
        (["stage.entropy_coef=2.0"], "stage.entropy_coef"),
        (["stage.entropy_coef_min=0.5", "stage.entropy_coef_max=0.5"], "stage.entropy_coef_min"),
    ],
)
def test_coefficient_outside_its_bounds_is_refused(small: Callable[..., Config], knobs: list[str], key: str) -> None:
    with pytest.raises(UserErrors) as caught:
        execute(small(*ADAPTIVE, *knobs, "dry_run=true"), [])
    assert [error.key for error in caught.value.errors] == [key]
