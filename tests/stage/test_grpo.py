"""GRPO through a real model against a loop over single tokens; its rollouts, its records, whole runs."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from slow import (
    REFERENCED,
    STOPS,
    assert_same,
    chosen,
    collected,
    flat,
    gradient,
    groups_of,
    move,
    next_logps,
    slow_loss,
)
from torch import Tensor
from transformers import PreTrainedModel

from r1.model.sequences import Sequences
from r1.run import execute
from r1.stage.grpo import Grpo
from r1.stage.rl.experience import Experience, split, total_rewards
from r1.stage.runtime.policy_sampler import PolicySampler

Stages = Callable[..., Grpo]
Config = dict[str, Any]
SMALLER = ["stage=grpo", "stage.examples_per_step=2", "rollout.temperature=0.8"]  # 8 completions
KNOBS: dict[str, Any] = {  # of every case here, unless it says otherwise
    "clip_low": 0.1,
    "clip_high": 0.15,
    "clip_dual": None,
    "kl_coef": 0.0,
    "kl_estimator": "k3",
    "kl_in": "loss",
    "entropy_coef": 0.0,
}


@pytest.fixture(autouse=True)
def many_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PolicySampler, "stop_ids", property(lambda self: STOPS))


@pytest.fixture
def inexact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's log-probs are not the trainer's, as in half precision."""
    monkeypatch.setattr(Grpo, "engine_is_exact", property(lambda self: False))


def overrides(knobs: dict[str, Any]) -> list[str]:
    return [f"stage.{name}={'null' if value is None else value}" for name, value in knobs.items()]


# ---- the loss ----


CASES = [(loss, {}) for loss in REFERENCED]
CASES += [(loss, {"kl_coef": 0.3, "entropy_coef": 0.05}) for loss in REFERENCED]
CASES += [("dapo", {"kl_coef": 0.3, "kl_estimator": estimator}) for estimator in ("k1", "k2")]
CASES += [(loss, {"kl_coef": 0.3, "kl_unbiased": True}) for loss in ("dapo", "gspo", "kimi")]
CASES += [(loss, {"clip_dual": 1.2}) for loss in ("dapo", "gspo")]
CASES += [("grpo", {"clip_low": 0.02, "clip_high": 0.5, "clip_dual": 1.6, "kl_coef": 0.1, "kl_estimator": "k2"})]


@pytest.mark.parametrize(("loss", "changed"), CASES)
def test_grpo_step_matches_loop_over_tokens(stage: Stages, loss: str, changed: dict[str, Any]) -> None:
    knobs = KNOBS | changed
    made = stage(*SMALLER, f"stage/loss={loss}", *overrides(knobs))
    start, groups = copy.deepcopy(made.policy), groups_of(made)
    experience = chosen(made, groups)
    move(made.policy)
    found = gradient(made, split(experience, 2))
    clip_frac = made.step_metrics["train/clip_frac"]
    assert 0.1 < clip_frac < 0.9 if made.objective.loss.clips else clip_frac == 0
    made.policy.zero_grad()
    more = {"temperature": 0.8, "importance": None}
    expected = slow_loss(made.policy, start, flat(groups), experience, loss, knobs | more)
    expected.backward()
    assert collected(made.policy).norm() > 0.01
    torch.testing.assert_close(found, collected(made.policy), rtol=1e-4, atol=1e-6)
    assert made.step_metrics["train/loss"] == pytest.approx(expected.item(), abs=1e-5)


IMPORTANCE: dict[str, tuple[list[str], Any]] = {  # overrides, and the slow reference's name and bounds
    "none": (["stage.importance=null"], None),
    "token": (["stage.importance.cap=1.1"], ("truncate", 0.0, 1.1)),
    "masked": (
        ["stage/importance=masked", "stage.importance.low=0.8", "stage.importance.high=1.1"],
        ("mask", 0.8, 1.1),
    ),
    "sequence masked": (
        ["stage/importance=sequence", "stage.importance.low=0.7", "stage.importance.high=1.4"],
        ("sequence mask", 0.7, 1.4),
    ),
    "sequence truncated": (
        ["stage/importance=sequence", "stage.importance.high=1.2", "stage.importance.outside=truncate"],
        ("sequence truncate", 0.0, 1.2),
    ),
}


@pytest.mark.parametrize("correction", list(IMPORTANCE))
@pytest.mark.parametrize("loss", ["dapo", "gspo"])
@pytest.mark.usefixtures("inexact")
def test_importance_correction_matches_loop_over_tokens(stage: Stages, loss: str, correction: str) -> None:
    """Two steps on the same rollouts: the trainer's log-probs are kept, the engine's are off by a fifth."""
    knobs = KNOBS | {"kl_coef": 0.1}
    corrected, slow_correction = IMPORTANCE[correction]
    more = ["stage.num_iterations=2", *corrected]
    made = stage(*SMALLER, f"stage/loss={loss}", *overrides(knobs), *more)
    start, groups = copy.deepcopy(made.policy), groups_of(made)
    experience = chosen(made, groups, engine_noise=0.2)
    assert experience.old_logps is not None
    move(made.policy)
    found = gradient(made, split(experience, 2))
    made.policy.zero_grad()
    slow = knobs | {"temperature": 0.8, "importance": slow_correction}
    slow_loss(made.policy, start, flat(groups), experience, loss, slow).backward()
    torch.testing.assert_close(found, collected(made.policy), rtol=1e-4, atol=1e-6)
    rollout = torch.cat([torch.tensor(r.logps) for r in flat(groups)])
    torch.testing.assert_close(experience.old_logps[experience.mask], rollout, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("inexact")
def test_single_pass_without_old_logps_uses_policy_logps(stage: Stages) -> None:
    """One iteration: the ratio is 1 by definition, and the correction compares with the policy of this very pass."""
    made = stage(*SMALLER, "stage.importance.cap=1.1", "stage.num_iterations=1")
    groups = groups_of(made)
    experience = chosen(made, groups, engine_noise=0.2)
    assert experience.old_logps is None
    found = gradient(made, split(experience, 2))
    assert made.step_metrics["train/clip_frac"] == 0
    gap = made.step_metrics["train/logprob_gap"]
    assert gap == pytest.approx(0.2 * math.sqrt(2 / math.pi), rel=0.3)  # the mean of |N(0, 0.2)|
    made.policy.zero_grad()
    logps, _ = made.forward_logps(made.policy, experience)
    weight = (logps.detach() - experience.engine_logps).exp().clamp(max=1.1)
    loss = -(weight * experience.advantages[:, None] * logps).sum() / experience.num_tokens
    loss.backward()
    assert_same(found, collected(made.policy))


def test_kl_in_reward_is_subtracted_from_completion_reward(stage: Stages) -> None:
    """r_i - beta sum_t k(policy, reference), then the group's mean and spread; nothing is added per token."""
    made = stage(*SMALLER, "stage.kl_coef=0.05", "stage.kl_in=reward", "stage.kl_estimator=k3")
    start = copy.deepcopy(made.policy)
    move(made.policy)
    groups = groups_of(made)
    experience, rewards = made.with_advantages(groups), total_rewards(groups)
    penalties, expected = [], []
    for group in groups:
        costs = []
        for rollout in group.rollouts:
            with torch.no_grad():
                ref = [
                    next_logps(start, rollout, t, 0.8)[token].item() for t, token in enumerate(rollout.completion_ids)
                ]
            costs.append(sum(math.exp(r - p) - 1 - (r - p) for r, p in zip(ref, rollout.logps, strict=True)))
        total = [r - 0.05 * c for r, c in zip(group.total, costs, strict=True)]
        penalties += costs
        expected += [(r - fmean(total)) / (stdev(total) + 1e-4) for r in total]
    assert fmean(penalties) > 0.01
    assert experience.advantages.tolist() == pytest.approx(expected, abs=1e-3)
    assert rewards.tolist() == [pytest.approx(group.total) for group in groups]  # signal is looked for before
    assert made.step_metrics["reward/kl"] == pytest.approx(-fmean(penalties), abs=1e-4)
    assert made.step_metrics["reward/kl_weighted"] == pytest.approx(-0.05 * fmean(penalties), abs=1e-5)
    left = made.with_logps(made.select(experience, groups))
    assert left.ref_logps is None
    found = gradient(made, split(left, 2))
    without = stage(*SMALLER)
    without.policy = made.policy
    assert_same(gradient(without, split(left, 2)), found)


def test_per_term_advantage_receives_reward_terms(stage: Stages) -> None:
    """gdpo over one term is the group's own normalisation; a KL in the reward is one term more, of weight beta."""
    knobs = ["stage.kl_coef=0.05", "stage.kl_in=reward"]
    plain, per_term = stage(*SMALLER), stage(*SMALLER, "stage/advantage=gdpo")
    with_kl = stage(*SMALLER, "stage/advantage=gdpo", *knobs)
    expected = plain.with_advantages(groups_of(plain)).advantages
    groups = groups_of(per_term)
    torch.testing.assert_close(per_term.with_advantages(groups).advantages, expected)
    move(with_kl.reference.model)
    moved = with_kl.with_advantages(groups)
    penalty = with_kl.kl(moved.engine_logps, with_kl.logps_under(with_kl.reference.model, moved)).sum(1).view(2, 4)
    scaled = -(penalty - penalty.mean(1, keepdim=True)) / (penalty.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(moved.advantages, expected + 0.05 * scaled.flatten(), rtol=1e-3, atol=1e-3)


# ---- on policy ----


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_first_pass_ratio_is_one(
    stage: Stages, make_model: Callable[..., PreTrainedModel], architecture: str, temperature: float
) -> None:
    made = stage("stage=grpo", f"rollout.temperature={temperature}")
    made.policy = make_model(architecture, vocab_size=610).train()
    closed = 0
    for batch in made.micro_batches(0):
        with torch.no_grad():
            logps, _ = made.forward_logps(made.policy, batch)
        assert (logps - batch.old_logps).abs().max() < 1e-5
        assert (logps[batch.mask] < 0).all()
        assert (logps[~batch.mask] == 0).all()
        closed += sum(ids[n - 1].item() in STOPS for ids, n in zip(batch.completion_ids, batch.lengths, strict=True))
        gradient(made, [batch])
    assert closed > 0  # closing tokens are learned like all others
    assert made.step_metrics["train/clip_frac"] == 0
    assert made.step_metrics["train/logprob_gap"] < 1e-5


def own_logps(made: Grpo, batch: Sequences) -> Tensor:
    """(tokens, V) log-probabilities straight from transformers, completion by completion."""
    rows = []
    for b, length in enumerate(batch.lengths):
        p = batch.prompt_index[b]
        prompt = batch.prompt_ids[p, : batch.prompt_lengths[p]]
        logits = made.policy(input_ids=torch.cat([prompt, batch.completion_ids[b, :length]])[None]).logits[0]
        rows.append((logits[len(prompt) - 1 : -1] / made.temperature).log_softmax(-1))
    return torch.cat(rows)


def test_first_pass_gradient_is_policy_gradient(stage: Stages) -> None:
    """On policy the surrogate's gradient is the mean of -A grad log pi (DAPO weights)."""
    made = stage("stage=grpo")
    experience = made.collect(0)[0]
    found = gradient(made, split(experience, 4))
    made.policy.zero_grad()
    tokens = experience.completion_ids[experience.mask]
    logps = own_logps(made, experience).gather(1, tokens[:, None]).squeeze(1)
    advantages = experience.advantages.repeat_interleave(torch.tensor(experience.lengths))
    (-(advantages * logps).sum() / len(tokens)).backward()
    assert_same(found, collected(made.policy))


def test_gradient_is_zero_only_for_zero_advantages(stage: Stages) -> None:
    made = stage("stage=grpo")
    experience = made.collect(0)[0]
    assert experience.advantages.abs().sum() > 0
    assert gradient(made, [experience]).norm() > 0.01
    nothing = replace(experience, advantages=torch.zeros(16))
    assert gradient(made, [nothing]).abs().max() == 0


def test_entropy_and_kl_match_hand_computation(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.kl_coef=0.1", "rollout.temperature=0.8")
    experience = made.collect(0)[0]
    move(made.policy)
    made.step_metrics.clear()
    gradient(made, split(experience, 4))
    with torch.no_grad():
        logps = own_logps(made, experience)
    now = logps.gather(1, experience.completion_ids[experience.mask][:, None]).squeeze(1)
    gap = experience.ref_logps[experience.mask] - now
    entropy = -(logps.exp() * logps).sum(-1).mean().item()
    assert made.step_metrics["train/entropy"] == pytest.approx(entropy, abs=1e-5)
    assert made.step_metrics["train/kl"] == pytest.approx((gap.exp() - 1 - gap).mean().item(), abs=1e-6)


def test_logprob_gap_is_reported_on_first_pass_only(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.num_iterations=2")
    for step, reported in ((0, True), (1, False), (2, True)):
        gradient(made, made.micro_batches(step))
        assert ("train/logprob_gap" in made.step_metrics) == reported
        made.step_metrics.clear()


def test_half_precision_old_logps_come_from_trainer(stage: Stages) -> None:
    """One pass needs none; with two, those of the trainer make the first ratio exactly 1."""
    once, twice = (stage("stage=grpo", "model.dtype=bfloat16", f"stage.num_iterations={n}") for n in (1, 2))
    assert not once.engine_is_exact
    assert once.collect(0)[0].old_logps is None
    experience = twice.collect(0)[0]
    ratio = (twice.logps_under(twice.policy, experience) - experience.old_logps).exp()
    assert ratio.equal(torch.ones_like(ratio))


# ---- the loader ----


def test_rollout_batch_is_used_num_iterations_times(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.num_iterations=2")
    first, second, third = (made.micro_batches(step) for step in range(3))
    assert all(
        a.completion_ids.equal(b.completion_ids) and a.old_logps.equal(b.old_logps)
        for a, b in zip(first, second, strict=True)
    )
    assert [a.is_fresh for a in first] + [b.is_fresh for b in second] == [True] * 4 + [False] * 4
    assert not torch.equal(first[0].completion_ids, third[0].completion_ids)


def test_restored_loader_resumes_its_rollout_batch(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.num_iterations=2", "stage.kl_coef=0.1")
    made.micro_batches(0)
    state = made.loader_state(1)
    move(made.policy)
    expected = made.micro_batches(1)
    other = stage("stage=grpo", "stage.num_iterations=2", "stage.kl_coef=0.1")
    other.load_loader_state([state])
    for a, b in zip(other.micro_batches(1), expected, strict=True):
        assert_equal(a, b)


def assert_equal(a: Experience, b: Experience) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        assert value.equal(other) if isinstance(value, Tensor) else value == other, name


def test_micro_batches_hold_every_sequence_once_with_little_padding(stage: Stages) -> None:
    made = stage("stage=grpo")
    groups = groups_of(made)
    experience = chosen(made, groups)
    parts = split(experience, 4)
    assert [len(part) for part in parts] == [4] * 4
    found = [row for part in parts for row in readable(part)]
    advantages = experience.advantages.tolist()
    expected = [
        (r.prompt_ids, r.completion_ids, pytest.approx(r.logps), a)
        for r, a in zip(flat(groups), advantages, strict=True)
    ]
    assert found == expected
    assert {part.counts for part in parts} == {experience.counts}
    for part in parts:
        assert part.completion_ids.shape[1] == max(part.lengths)
        assert part.prompt_ids.shape == (1, part.prompt_lengths[0])  # a group's prompt once


def readable(part: Experience) -> list[tuple[list[int], list[int], list[float], float]]:
    rows = []
    for b, length in enumerate(part.lengths):
        p = part.prompt_index[b]
        prompt = part.prompt_ids[p, : part.prompt_lengths[p]].tolist()
        tokens, logps = part.completion_ids[b, :length].tolist(), part.old_logps[b, :length].tolist()
        rows.append((prompt, tokens, logps, part.advantages[b].item()))
    return rows


def test_rollouts_depend_on_seed_and_step(stage: Stages) -> None:
    first, again = stage("stage=grpo").collect(0)[0], stage("stage=grpo").collect(0)[0]
    assert_equal(first, again)
    same_weights = stage("stage=grpo")
    same_weights.seed = 1
    assert not torch.equal(same_weights.collect(0)[0].completion_ids, first.completion_ids)
    assert len({tuple(row.tolist()) for row in first.completion_ids}) == 16


def test_same_prompt_in_next_step_gets_new_completions(stage: Stages) -> None:
    made = stage("stage=grpo", "data.num_train=4")
    completions = [
        {tuple(ids[:n].tolist()) for ids, n in zip(batch.completion_ids, batch.lengths, strict=True)}
        for batch in (made.collect(step)[0] for step in (0, 1))
    ]
    assert sorted(made.step_indices(0)) == sorted(made.step_indices(1)) == [0, 1, 2, 3]
    assert not completions[0] & completions[1]


# ---- rewards ----


def test_rollout_metrics_match_hand_computation(stage: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first completion of each group has no reward; the last group's are all alike."""
    made = stage("stage=grpo")
    rewards = [[None, 0.0, 1.0, 0.25], [None, 0.25, 0.25, 1.0], [None, 0.0, 0.0, 2.0], [None, 1.0, 1.0, 1.0]]
    term = made.sampler.rewards.terms["low_ids"]
    all_rewards = [r for group in rewards for r in group]
    replaced = replace(term, function=lambda completions: all_rewards, weight=2.0)
    monkeypatch.setitem(made.sampler.rewards.terms, "low_ids", replaced)
    experience = made.collect(0)[0]
    there = [[2 * r for r in group if r is not None] for group in rewards]
    assert made.step_metrics["train/reward"] == pytest.approx(fmean(r for group in there for r in group))
    assert made.step_metrics["train/reward_std"] == pytest.approx(fmean(map(stdev, there)))
    assert made.step_metrics["train/frac_zero_std"] == 0.25
    assert made.step_metrics["reward/low_ids"] == pytest.approx(fmean(r for group in there for r in group) / 2)
    assert made.step_metrics["reward/low_ids_weighted"] == made.step_metrics["train/reward"]
    assert made.step_metrics["train/completion_length"] == pytest.approx(fmean(experience.lengths))
    ends = [ids[n - 1].item() for ids, n in zip(experience.completion_ids, experience.lengths, strict=True)]
    assert made.step_metrics["train/truncated"] == pytest.approx(fmean(end not in STOPS for end in ends))
    assert (experience.advantages == 0).sum() == 4 + 3
    assert experience.advantages.isfinite().all()


# ---- whole runs ----


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_grpo_metrics_do_not_depend_on_micro_batch_size(small: Callable[..., Config], tmp_path: Path) -> None:
    """The gradient that Lightning hands to the optimizer, not only the one that this file accumulates."""
    found = []
    for size in (1, 4, 16, 5):
        knobs = [f"stage.micro_batch_size={size}", "trainer.max_steps=1", f"output_dir={tmp_path / str(size)}"]
        execute(small("stage=grpo", *knobs), [])
        found.append(next(row for row in rows(tmp_path / str(size)) if "train/loss" in row))
    assert found[0]["train/grad_norm"] > 0.1
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)
    assert found[3] == pytest.approx(found[0], abs=1e-5)


def test_rollouts_are_sampled_with_newest_weights(small: Callable[..., Config], tmp_path: Path) -> None:
    """Nothing is fetched ahead: only the second of two steps on one rollout batch meets ratios other than 1."""
    knobs = ["stage.num_iterations=2", "trainer.max_steps=6", "stage.lr=1.0e-2", "stage.clip_low=0.05"]
    execute(small("stage=grpo", *knobs, f"output_dir={tmp_path / 'run'}"), [])
    clipped = [row["train/clip_frac"] > 0 for row in rows(tmp_path / "run") if "train/clip_frac" in row]
    assert clipped == [False, True] * 3


def test_grpo_run_raises_reward(small: Callable[..., Config], tmp_path: Path) -> None:
    knobs = ["trainer.max_steps=20", "stage.lr=1.0e-2", "stage.group_size=8", "val.every=20"]
    execute(small("stage=grpo", *knobs, f"output_dir={tmp_path / 'run'}"), [])
    rewards = [row["train/reward"] for row in rows(tmp_path / "run") if "train/reward" in row]
    assert len(rewards) == 20
    assert fmean(rewards[:3]) < 0.6
    assert fmean(rewards[-3:]) > 0.85
    before, after = ([row for row in rows(tmp_path / "run") if "val/pass@1" in row][i] for i in (0, -1))
    assert after["val/reward/low_ids"] > before["val/reward/low_ids"] + 0.2


def test_record_has_one_complete_group_per_rollout_batch(small: Callable[..., Config], tmp_path: Path) -> None:
    execute(small("stage=grpo", "stage.num_iterations=2", "trainer.max_steps=4", f"output_dir={tmp_path / 'run'}"), [])
    shown = [row for row in rows(tmp_path / "run", "samples.jsonl") if row["split"] == "train"]
    assert [row["step"] for row in shown] == [0] * 4 + [2] * 4  # the optimizer steps that came before, as in validation
    assert len({row["prompt"] for row in shown[:4]}) == 1
    for group in (shown[:4], shown[4:]):
        rewards = [row["reward"] for row in group]
        spread = stdev(rewards) + 1e-4
        expected = [(r - fmean(rewards)) / spread for r in rewards]
        assert [row["advantage"] for row in group] == pytest.approx(expected, abs=1e-5)
        assert all(math.isclose(row["reward"], row["rewards"]["low_ids"]) for row in group)
