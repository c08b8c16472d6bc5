"""The batch arithmetic: what follows from what is set, and what does not divide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.core.batch import BatchPlan
from r1.core.errors import UserError


def test_batch_plan_matches_hand_computation() -> None:
    plan = BatchPlan(examples_per_step=16, group_size=8, micro_batch_size=16, num_devices=2)
    assert (plan.sequences_per_step, plan.sequences_per_device, plan.num_micro_batches) == (128, 64, 4)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (
            BatchPlan(16, 8, 16, 1),
            "16 prompts x 8 completions = 128 sequences per step = 8 micro-batches of 16 on 1 device",
        ),
        (BatchPlan(64, 1, 32, 2), "64 sequences per step = 1 micro-batch of 32 on 2 devices"),
        (BatchPlan(64, 1, 30, 1), "64 sequences per step = 3 micro-batches of at most 30 on 1 device"),
        (BatchPlan(4, 1, 32, 1), "4 sequences per step = 1 micro-batch of 4 on 1 device"),
    ],
)
def test_batch_plan_prints_its_arithmetic(plan: BatchPlan, sentence: str) -> None:
    assert str(plan) == sentence


def test_batch_plan_rejects_examples_that_do_not_divide_over_devices() -> None:
    with pytest.raises(UserError, match="multiples of 4") as caught:
        BatchPlan(examples_per_step=6, group_size=8, micro_batch_size=1, num_devices=4)
    assert "stage.examples_per_step" in str(caught.value)


@given(*[st.integers(1, 12)] * 4)
def test_batch_plan_has_the_fewest_micro_batches_of_at_most_that_size(
    examples: int, group: int, micro: int, devices: int
) -> None:
    plan = BatchPlan(examples * devices, group, micro, devices)
    assert (plan.num_micro_batches - 1) * micro < examples * group <= plan.num_micro_batches * micro
