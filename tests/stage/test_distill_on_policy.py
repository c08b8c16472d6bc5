"""stage=distill_on_policy: keyed samples of the student's own, the teacher's distribution at each of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from slow import STOPS, assert_same, collected, gradient, move
from torch import Tensor

from r1.core.runs import read_run
from r1.core.types import Config
from r1.run import execute
from r1.stage.runtime.policy_sampler import PolicySampler

Stages = Callable[..., Any]
KNOBS = [
    "teacher=transformers",
    "teacher.path=r1:tiny_xs",
    "teacher.dtype=float32",
    "stage.group_size=3",
    "stage.micro_batch_size=12",
]


@pytest.fixture(autouse=True, scope="module")
def many_stops() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicySampler, "stop_ids", property(lambda self: STOPS))
        yield


def build_stage(stage: Stages, *knobs: str) -> Any:
    return stage("stage=distill_on_policy", *KNOBS, *knobs)


def slow_loss(one: Any, tau: float) -> Tensor:
    """Reverse KL of every sampled sequence on its own, full logits."""
    total, count = torch.tensor(0.0), 0
    for prompt, completion in one.sequences:
        ids, positions = torch.tensor([prompt + completion]), slice(len(prompt) - 1, -1)
        logits = one.policy(input_ids=ids).logits[0, positions]
        with torch.no_grad():
            theirs = one.teacher.teacher.model(input_ids=ids).logits[0, positions]
        logps, p = (logits / tau).log_softmax(-1), (theirs / tau).log_softmax(-1)
        total = total + tau**2 * (logps.exp() * (logps - p)).sum()
        count += len(completion)
    return total / count


@pytest.mark.parametrize(("packing", "share_prompts"), [(True, True), (True, False), (False, False)])
def test_step_matches_full_logits_one_sequence_at_a_time(stage: Stages, packing: bool, share_prompts: bool) -> None:
    one = build_stage(
        stage, f"stage.packing={packing}", f"stage.share_prompts={share_prompts}", "stage.temperature=1.3"
    )
    batches = one.micro_batches(0)
    assert len({len(completion) for _, completion in one.sequences}) > 2
    found = gradient(one, batches)
    one.policy.zero_grad()
    loss = slow_loss(one, 1.3)
    loss.backward()
    assert_same(found, collected(one.policy), atol=1e-5)
    assert one.step_metrics["train/loss"] == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize("size", [1, 4])
def test_distill_on_policy_gradient_does_not_depend_on_micro_batch_size(stage: Stages, size: int) -> None:
    whole, parts = build_stage(stage), build_stage(stage, f"stage.micro_batch_size={size}")
    batches = parts.micro_batches(0)
    assert [len(batch) for batch in batches] == [size] * (12 // size)
    assert_same(gradient(parts, batches), gradient(whole, whole.micro_batches(0)))


def test_rollout_batch_is_reused_num_iterations_times(stage: Stages) -> None:
    one = build_stage(stage, "stage.num_iterations=2")
    one.micro_batches(0)
    first = one.sequences
    move(one.policy)
    one.micro_batches(1)
    assert one.sequences is first
    one.micro_batches(2)
    assert one.sequences != first


def test_loader_state_between_passes_holds_rollouts(stage: Stages) -> None:
    one, other = build_stage(stage, "stage.num_iterations=2"), build_stage(stage, "stage.num_iterations=2")
    one.micro_batches(0)
    state = one.loader_state(1)
    for each in (one, other):
        move(each.policy)
    other.load_loader_state([state])
    assert_same(gradient(other, other.micro_batches(1)), gradient(one, one.micro_batches(1)), atol=1e-9)


def test_rollouts_are_keyed_by_seed_step_and_sample(stage: Stages) -> None:
    one, again = build_stage(stage), build_stage(stage, "rollout.batch_size=1")
    assert one.rollouts(0) == again.rollouts(0)
    assert one.rollouts(1) == again.rollouts(1) != one.rollouts(0)
    assert len({tuple(completion) for _, completion in one.rollouts(0)[:3]}) == 3
    assert one.rollouts(0) != build_stage(stage, "seed=1").rollouts(0)


def test_distill_on_policy_run_lowers_loss_without_rewards(small: Callable[..., Config], folder: Path) -> None:
    knobs = ["trainer.max_steps=30", "val.every=30", "stage.lr=0.02", "stage.schedule=constant", f"output_dir={folder}"]
    execute(small("stage=distill_on_policy", *KNOBS, *knobs), [])
    steps = [row for row in read_run(str(folder)).metrics if "train/loss" in row]
    losses = [row["train/loss"] for row in steps]
    assert fmean(losses[-3:]) < 0.7 * fmean(losses[:3])
    assert steps[0]["train/completion_length"] <= 8
    assert "train/reward" not in steps[0]
