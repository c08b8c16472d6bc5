"""``stage.steps_per_rollout``: a rollout batch split into minibatches, an optimizer step each."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from slow import STOPS, Ranks, assert_same, collected, flat, gradient, groups_of, move, slow_loss

from r1.core.errors import UserErrors
from r1.core.types import Config
from r1.run import execute
from r1.stage.grpo import Grpo
from r1.stage.rl.experience import split
from r1.stage.runtime.policy_sampler import PolicySampler

Stages = Callable[..., Grpo]
Runner = Callable[..., list[dict[str, Any]]]
TWO = ["stage=grpo", "stage.examples_per_step=2", "stage.steps_per_rollout=2", "rollout.temperature=0.8"]


@pytest.fixture(autouse=True, scope="module")
def many_stops() -> Iterator[None]:
    """Completions of many lengths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicySampler, "stop_ids", property(lambda self: STOPS))
        yield


@pytest.fixture
def run(small: Callable[..., Config], tmp_path: Path) -> Runner:
    """``run(...)``: the rows of a run's training steps."""

    def rows(*overrides: str, name: str = "run") -> list[dict[str, Any]]:
        folder = tmp_path / name
        execute(small("stage=grpo", *overrides, f"output_dir={folder}"), [])
        metrics = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [row for row in metrics if "train/loss" in row]

    return rows


# ---- the data of a minibatch ----


@pytest.mark.parametrize("number", [0, 3])
def test_minibatch_has_the_completions_of_the_same_step_without_minibatches(stage: Stages, number: int) -> None:
    """Equal weights: only the number of optimizer steps between them may make S = 2 another run than S = 1."""
    one, two = stage(*TWO, "stage.steps_per_rollout=1"), stage(*TWO)
    expected = [one.collect(2 * number + k)[0] for k in range(2)]
    found = two.collect(number)
    assert [a.completion_ids.tolist() for a in found] == [b.completion_ids.tolist() for b in expected]
    assert [a.prompt_ids.tolist() for a in found] == [b.prompt_ids.tolist() for b in expected]
    torch.testing.assert_close([a.advantages for a in found], [b.advantages for b in expected])
    assert found[0].completion_ids.tolist() != found[1].completion_ids.tolist()


def test_steps_go_through_all_minibatches_once_per_pass(stage: Stages) -> None:
    made = stage(*TWO, "stage.num_iterations=2")
    steps = [made.micro_batches(step) for step in range(5)]
    firsts = [batches[0].completion_ids.tolist() for batches in steps]
    assert firsts[0] == firsts[2]
    assert firsts[1] == firsts[3]
    assert len({str(first) for first in firsts}) == 3
    assert [batches[0].is_fresh for batches in steps] == [True, False, False, False, True]


def test_normaliser_is_the_mean_of_the_minibatches(stage: Stages) -> None:
    """The mean of the minibatches' gradients at equal weights is the gradient of one step on all of them."""
    whole = stage("stage=grpo", "rollout.temperature=0.8", "stage.entropy_coef=0.1")
    parts = stage(*TWO, "stage.entropy_coef=0.1")
    groups = groups_of(parts)
    experience = whole.with_logps(whole.select(whole.with_advantages(groups), groups))
    expected = gradient(whole, split(experience, whole.plan.num_micro_batches))
    minibatches = parts.collect(0)
    lengths = [minibatch.num_tokens for minibatch in minibatches]
    assert lengths[0] != lengths[1]
    assert [m.counts.num_tokens for m in minibatches] == [sum(lengths) / 2] * 2
    assert [m.counts.active_tokens for m in minibatches] == lengths
    found = [gradient(parts, split(minibatch, parts.plan.num_micro_batches)) for minibatch in minibatches]
    assert_same((found[0] + found[1]) / 2, expected)


@pytest.mark.parametrize("loss", ["dapo", "grpo", "cispo", "gspo", "sapo", "kimi"])
def test_second_minibatch_gradient_matches_loop_over_tokens(stage: Stages, loss: str) -> None:
    """Off the sampling weights: ratios are not 1, and some are clipped."""
    knobs = {"clip_low": 0.1, "clip_high": 0.15, "clip_dual": None, "kl_coef": 0.1, "kl_in": "loss"}
    knobs |= {"kl_estimator": "k3", "entropy_coef": 0.0, "importance": None, "temperature": 0.8}
    names = ("clip_low", "clip_high", "kl_coef")
    made = stage(*TWO, f"stage/loss={loss}", *(f"stage.{name}={knobs[name]}" for name in names))
    start, groups = copy.deepcopy(made.policy), groups_of(made)
    minibatch = made.collect(0)[1]
    move(made.policy)
    found = gradient(made, split(minibatch, made.plan.num_micro_batches))
    assert (made.step_metrics["train/clip_frac"] > 0) == made.objective.loss.clips
    made.policy.zero_grad()
    slow_loss(made.policy, start, flat(groups[2:]), minibatch, loss, knobs).backward()
    own_mean = minibatch.num_tokens / minibatch.counts.num_tokens if loss in ("dapo", "cispo") else 1.0
    assert_same(found, collected(made.policy) * own_mean, atol=1e-5)


def test_minibatch_without_signal_is_an_empty_step(stage: Stages) -> None:
    """``drop`` looks at each group; the other minibatch keeps its share of the normaliser."""
    made = stage(*TWO, "stage.zero_variance=drop")
    groups = groups_of(made)
    for group in groups[:2]:
        group.scores.total[:] = [0.5] * 4
    made.group_sampler.sample = lambda number, keys: groups
    empty, full = made.collect(0)
    assert (len(empty), len(full)) == (0, 8)
    assert empty.counts.num_sequences == full.counts.num_sequences == 4
    assert gradient(made, split(empty, made.plan.num_micro_batches)).norm() == 0


def test_step_advantage_is_normalised_over_each_minibatch_of_all_ranks(stage: Stages) -> None:
    """Two devices with one group of each minibatch: the spread is that of the minibatch, of both devices."""
    ranks = Ranks([stage(*TWO, "stage/advantage=step") for _ in range(2)])
    rewards = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 0, 8]], [[0, 2.0, 0, 0], [0, 4, 4, 0]]])  # rank, minibatch
    found = ranks.do(
        lambda made: made.advantages(rewards[made.run.ranks.rank], rewards[made.run.ranks.rank][None], torch.ones(1))
    )
    for k in range(2):
        centred = rewards[:, k] - rewards[:, k].mean(1, keepdim=True)
        expected = centred / (centred.std() + 1e-4)
        torch.testing.assert_close(torch.stack([advantages[k] for advantages in found]), expected)


# ---- runs ----


def test_first_minibatch_clips_nothing_and_later_ones_do(run: Runner) -> None:
    """The issue of on-policy runs: with one step per rollout batch the ratio is 1 and no clip acts."""
    clipped = [row["train/clip_frac"] for row in run("stage.steps_per_rollout=3", "stage.lr=0.01")]
    assert clipped[0] == clipped[3] == 0
    assert min(clipped[1], clipped[2], clipped[4], clipped[5]) > 0
    assert {row["train/clip_frac"] for row in run("stage.lr=0.01", name="one")} == {0}


@pytest.mark.parametrize(("loss", "other"), [("cispo", "dapo"), pytest.param("gspo", "grpo", marks=pytest.mark.long)])
def test_losses_differ_only_with_several_steps_per_rollout(run: Runner, loss: str, other: str) -> None:
    gaps = []
    for steps in (1, 2):
        knobs = [f"stage.steps_per_rollout={steps}", "stage.lr=0.01", "trainer.max_steps=4", "val.every=4"]
        one, two = (run(f"stage/loss={name}", *knobs, name=f"{name}_{steps}") for name in (loss, other))
        norms = [abs(a["train/grad_norm"] - b["train/grad_norm"]) for a, b in zip(one, two, strict=True)]
        gaps.append(max(norms))
    assert gaps[0] < 1e-3
    assert gaps[1] > 10 * gaps[0]
    assert gaps[1] > 1e-2


def test_async_rollouts_are_a_rollout_batch_behind(run: Runner) -> None:
    rows = run("rollout.async_steps=1", "stage.steps_per_rollout=2", "stage.lr=0.01")
    assert [row["train/weights_lag"] for row in rows if "train/weights_lag" in row] == [0, 2, 2]
    assert [row["train/clip_frac"] > 0 for row in rows] == [False, True, True, True, True, True]


def test_total_tokens_end_the_run_with_its_rollout_batch(run: Runner) -> None:
    """400 tokens are reached within the second rollout batch of 3 x 16 completions; its minibatches are all used."""
    rows = run("stage.steps_per_rollout=3", "budget=tokens", "stage.total_tokens=250", "trainer.max_steps=12")
    assert [row["train/total_tokens"] >= 250 for row in rows] == [False] * 3 + [True] * 3


@pytest.mark.parametrize(("every", "refused"), [(6, False), (4, True), (1, True)])
def test_reference_moves_between_rollout_batches_only(
    small: Callable[..., Config], every: int, refused: bool, tmp_path: Path
) -> None:
    knobs = ["stage.steps_per_rollout=3", "stage.num_iterations=2", "stage.kl_coef=0.1", "dry_run=true"]
    cfg = small("stage=grpo", *knobs, f"stage.ref_sync_every={every}", f"output_dir={tmp_path / 'run'}")
    if not refused:
        execute(cfg, [])
        return
    with pytest.raises(UserErrors) as caught:
        execute(cfg, [])
    assert [error.key for error in caught.value.errors] == ["stage.ref_sync_every"]
    assert "multiples of 6 (stage.steps_per_rollout x stage.num_iterations)" in str(caught.value)


def test_plan_has_the_rollout_batch(small: Callable[..., Config], capsys: pytest.CaptureFixture[str]) -> None:
    execute(small("stage=grpo", "stage.steps_per_rollout=3", "trainer.max_steps=7", "dry_run=true"), [])
    plan = " ".join(capsys.readouterr().err.split())
    assert "a rollout batch of 12 prompts is 3 such minibatches, whole groups in the data's order" in plan
    assert "in total 36 prompts and 144 completions in 7 steps" in plan
    assert "on policy" not in plan


@pytest.mark.parametrize(("knob", "noted"), [("stage.lr=0.01", True), ("stage.num_iterations=2", False)])
def test_plan_notes_clips_that_cannot_act(
    small: Callable[..., Config], capsys: pytest.CaptureFixture[str], knob: str, noted: bool
) -> None:
    execute(small("stage=grpo", knob, "dry_run=true"), [])
    plan = " ".join(capsys.readouterr().err.split())
    assert ("the ratio is 1, so stage.clip_low, clip_high and clip_dual do nothing" in plan) == noted
