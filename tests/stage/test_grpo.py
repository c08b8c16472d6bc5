"""GRPO through a real model against a loop over single tokens, and what must not change its gradient."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from r1.rollout.base import Rollout
from r1.run import execute
from r1.seeds import key
from r1.stage.base import Stage
from r1.stage.grpo import Experience, Grpo, split

Stages = Callable[..., Grpo]
Config = dict[str, Any]
LOSSES = ["grpo", "dapo", "dr_grpo"]
STOPS = set(range(500, 610))  # a sixth of the vocabulary, so that completions end at different places
KNOBS = ["stage.clip_low=0.1", "stage.clip_high=0.15", "rollout.temperature=0.8"]


@pytest.fixture(autouse=True)
def many_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "stop_ids", property(lambda self: STOPS))


def gradient(stage: Grpo, batches: Sequence[Experience]) -> Tensor:
    """The gradient of one optimizer step, accumulated and divided as Lightning does."""
    stage.policy.zero_grad()
    for i, batch in enumerate(batches):
        (stage.training_step(batch, i) / len(batches)).backward()
    return torch.cat([p.grad.flatten() for p in stage.policy.parameters() if p.grad is not None])


def off_policy(stage: Grpo) -> None:
    """Move the weights, as an optimizer step would, so that ratios leave 1 and some are clipped."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in stage.policy.parameters():
            p += 0.02 * torch.randn(p.shape, generator=generator)


def rollouts_of(stage: Grpo) -> tuple[list[Rollout], Tensor]:
    """16 completions of 4 prompts and advantages of both signs."""
    seeds = [[key("grpo", p, g) for g in range(4)] for p in range(4)]
    rollouts = [r for group in stage.sample(stage.data.train[:4], seeds) for r in group]
    assert len({len(r.completion_ids) for r in rollouts}) > 3
    return rollouts, torch.randn(16, generator=torch.Generator().manual_seed(6))


# ---- the reference: one token at a time ----


def logp(model: PreTrainedModel, rollout: Rollout, t: int, temperature: float) -> Tensor:
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids[:t]])
    return (model(input_ids=ids).logits[0, -1] / temperature).log_softmax(-1)[rollout.completion_ids[t]]


def token_cost(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    clipped = min(max(ratio, torch.tensor(1 - low)), torch.tensor(1 + high))
    return -min(ratio * advantage, clipped * advantage)


def divergence(estimator: str, now: Tensor, ref: Tensor) -> Tensor:
    gap = now - ref
    return {"k1": gap, "k2": gap**2 / 2, "k3": torch.exp(-gap) - 1 + gap}[estimator]


def reference(
    stage: Grpo, start: PreTrainedModel, rollouts: list[Rollout], advantages: Tensor, loss: str, estimator: str
) -> Tensor:
    """The loss of the papers, written down token by token."""
    num_tokens, total = sum(len(r.completion_ids) for r in rollouts), torch.tensor(0.0)
    for rollout, advantage in zip(rollouts, advantages.tolist(), strict=True):
        length = len(rollout.completion_ids)
        weight = {"grpo": 1 / length / 16, "dapo": 1 / num_tokens, "dr_grpo": 1 / 16 / 8}[loss]
        for t in range(length):
            now = logp(stage.policy, rollout, t, 0.8)
            cost = token_cost((now - rollout.logps[t]).exp(), advantage, 0.1, 0.15)
            if stage.kl_coef:
                with torch.no_grad():
                    ref = logp(start, rollout, t, 0.8)
                cost = cost + stage.kl_coef * divergence(estimator, now, ref)
            total = total + weight * cost
    return total


@pytest.mark.parametrize(
    ("loss", "kl_coef", "estimator"),
    [(loss, kl_coef, "k3") for loss in LOSSES for kl_coef in (0.0, 0.3)] + [("dapo", 0.3, "k1"), ("dapo", 0.3, "k2")],
)
def test_loss_and_gradient_equal_the_loop_over_tokens(stage: Stages, loss: str, kl_coef: float, estimator: str) -> None:
    made = stage(
        "stage=grpo", f"stage/loss={loss}", f"stage.kl_coef={kl_coef}", f"stage.kl_estimator={estimator}", *KNOBS
    )
    start = copy.deepcopy(made.policy)
    rollouts, advantages = rollouts_of(made)
    off_policy(made)
    found = gradient(made, split(made.experience_from(rollouts, advantages), 4))
    assert 0.1 < made._sums["train/clip_frac"] < 0.9
    made.policy.zero_grad()
    expected_loss = reference(made, start, rollouts, advantages, loss, estimator)
    expected_loss.backward()
    expected = torch.cat([p.grad.flatten() for p in made.policy.parameters() if p.grad is not None])
    assert expected.norm() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert made._sums["train/loss"] == pytest.approx(expected_loss.item(), abs=1e-6)


# ---- what must not change the gradient ----


@pytest.fixture
def fixed(stage: Stages, request: pytest.FixtureRequest) -> tuple[Grpo, Experience, Tensor]:
    """A stage off policy, its experience, and the gradient of it in one piece."""
    made = stage("stage=grpo", f"stage/loss={request.param}", "stage.kl_coef=0.1", *KNOBS)
    rollouts, advantages = rollouts_of(made)
    off_policy(made)
    experience = made.experience_from(rollouts, advantages)
    return made, experience, whole(made, experience)


def whole(made: Grpo, experience: Experience) -> Tensor:
    return in_parts(made, experience, 16)


def in_parts(made: Grpo, experience: Experience, micro_batch_size: int) -> Tensor:
    made.plan = replace(made.plan, micro_batch_size=micro_batch_size)
    return gradient(made, split(experience, micro_batch_size))


each_loss = pytest.mark.parametrize("fixed", LOSSES, indirect=True)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 1e-3
    assert (found - expected).abs().max() < 1e-6


@each_loss
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 8])
def test_the_micro_batch_size(fixed: tuple[Grpo, Experience, Tensor], micro_batch_size: int) -> None:
    made, experience, expected = fixed
    assert_same(in_parts(made, experience, micro_batch_size), expected)


@each_loss
def test_the_order_of_sequences(fixed: tuple[Grpo, Experience, Tensor]) -> None:
    made, experience, expected = fixed
    order = torch.randperm(16, generator=torch.Generator().manual_seed(7))
    rows = {n: v[order] for n, v in vars(experience).items() if isinstance(v, Tensor)}
    for micro_batch_size in (2, 16):
        assert_same(in_parts(made, replace(experience, **rows), micro_batch_size), expected)


@each_loss
@pytest.mark.parametrize("filler", [0, 1, 77])  # the padding token, the closing token, any token
def test_more_padding_on_the_right(fixed: tuple[Grpo, Experience, Tensor], filler: int) -> None:
    made, experience, expected = fixed
    ids = torch.nn.functional.pad(experience.input_ids, (0, 5), value=filler)
    wider = {n: torch.nn.functional.pad(getattr(experience, n), (0, 5)) for n in ("mask", "old_logps", "ref_logps")}
    padded = replace(experience, input_ids=ids, **wider)
    assert_same(gradient(made, [padded]), expected)  # as it is: `split` would trim it again


@pytest.mark.parametrize("loss", LOSSES)
def test_the_number_of_devices(stage: Stages, loss: str) -> None:
    """Two devices with half of the prompts each; their gradients are averaged, as DDP does."""
    knobs = ["stage=grpo", f"stage/loss={loss}", "stage.kl_coef=0.1", *KNOBS]
    alone = stage(*knobs)
    batches = alone.micro_batches(0)
    off_policy(alone)
    expected = gradient(alone, batches)
    shares, indices = [], []
    for rank in (0, 1):
        made = stage(*knobs, "trainer.devices=2", world_size=2, global_rank=rank)
        total = torch.tensor(batches[0].num_tokens)
        made.trainer.strategy = SimpleNamespace(reduce=lambda count, reduce_op, total=total: total)
        share = made.micro_batches(0)
        assert len(share) == 2
        off_policy(made)
        shares.append(gradient(made, share))
        indices += made.step_indices(0)
    assert indices == alone.step_indices(0)
    assert_same(sum(shares) / 2, expected)


# ---- on policy ----


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_first_ratio_is_one(
    stage: Stages, make_model: Callable[..., PreTrainedModel], architecture: str, temperature: float
) -> None:
    made = stage("stage=grpo", f"rollout.temperature={temperature}")
    made.policy = make_model(architecture, vocab_size=610).train()
    closed = 0
    for batch in made.micro_batches(0):
        with torch.no_grad():
            logps = made.target_logps(made.policy(input_ids=batch.input_ids).logits[:, :-1], batch)
        assert (logps - batch.old_logps).abs().max() < 1e-5
        assert (logps[batch.mask] < 0).all()
        assert (logps[~batch.mask] == 0).all()
        closed += sum(ids[1:][mask][-1].item() in STOPS for ids, mask in zip(batch.input_ids, batch.mask, strict=True))
        gradient(made, [batch])
    assert closed > 0  # closing tokens are learned like all others
    assert made._sums["train/clip_frac"] == 0


def test_the_first_gradient_is_that_of_the_policy_gradient(stage: Stages) -> None:
    """On policy the surrogate's gradient is the mean of -A grad log pi (DAPO weights)."""
    made = stage("stage=grpo")
    experience = made.collect(0)
    found = gradient(made, [experience])
    made.policy.zero_grad()
    logps = made.target_logps(made.policy(input_ids=experience.input_ids).logits[:, :-1], experience)
    loss = -(experience.advantages[:, None] * logps).sum() / experience.mask.sum()
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in made.policy.parameters() if p.grad is not None])
    assert_same(found, float(made.plan.num_micro_batches) * expected)


def test_no_advantage_no_gradient_and_some_advantage_some_gradient(stage: Stages) -> None:
    made = stage("stage=grpo")
    experience = made.collect(0)
    assert experience.advantages.abs().sum() > 0
    assert gradient(made, [experience]).norm() > 0.01
    nothing = replace(experience, advantages=torch.zeros(16))
    assert gradient(made, [nothing]).abs().max() == 0


def test_entropy_and_kl_by_hand(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.kl_coef=0.1", "rollout.temperature=0.8")
    experience = made.collect(0)
    off_policy(made)
    made._sums.clear()
    gradient(made, split(experience, 4))
    with torch.no_grad():
        logps = (made.policy(input_ids=experience.input_ids).logits[:, :-1] / 0.8).log_softmax(-1)
    now = logps.gather(-1, experience.input_ids[:, 1:, None]).squeeze(-1)
    gap = experience.ref_logps - now
    entropy = -(logps.exp() * logps).sum(-1)[experience.mask].mean().item()
    assert made._sums["train/entropy"] == pytest.approx(entropy, abs=1e-5)
    assert made._sums["train/kl"] == pytest.approx((gap.exp() - 1 - gap)[experience.mask].mean().item(), abs=1e-6)


# ---- the reference model ----


def test_the_reference_is_the_start_of_the_run_and_never_moves(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.kl_coef=0.1")
    experience = made.collect(0)
    assert (experience.ref_logps - experience.old_logps).abs().max() < 1e-5
    off_policy(made)
    made.configure_model()  # Lightning calls it again for each of validate and fit
    assert made.logps_under(made._ref[0], experience).equal(experience.ref_logps)


def test_half_precision_takes_the_old_logps_from_the_trainer(stage: Stages) -> None:
    made = stage("stage=grpo", "model.dtype=bfloat16")
    experience = made.collect(0)
    ratio = (made.logps_under(made.policy, experience) - experience.old_logps).exp()
    assert ratio.equal(torch.ones_like(ratio))


def test_the_reference_is_neither_saved_nor_trained_nor_kept_in_vain(stage: Stages) -> None:
    with_ref, without = stage("stage=grpo", "stage.kl_coef=0.1"), stage("stage=grpo")
    assert with_ref.state_dict().keys() == without.state_dict().keys()
    assert not any(p.requires_grad for p in with_ref._ref[0].parameters())
    assert not hasattr(without, "_ref")


# ---- the loader ----


def test_a_rollout_batch_is_used_num_iterations_times(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.num_iterations=2")
    first, second, third = (made.micro_batches(step) for step in range(3))
    assert all(
        a.input_ids.equal(b.input_ids) and a.old_logps.equal(b.old_logps) for a, b in zip(first, second, strict=True)
    )
    assert not torch.equal(first[0].input_ids, third[0].input_ids)


def test_a_loader_that_is_restored_goes_on_with_its_rollouts(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.num_iterations=2")
    made.micro_batches(0)
    state = made.loader_state()
    off_policy(made)
    expected = made.micro_batches(1)
    other = stage("stage=grpo", "stage.num_iterations=2")
    other.load_loader_state(state)
    for a, b in zip(other.micro_batches(1), expected, strict=True):
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(getattr(b, n))) for n, v in vars(a).items())


def test_micro_batches_carry_every_sequence_once_and_little_padding(stage: Stages) -> None:
    made = stage("stage=grpo")
    rollouts, advantages = rollouts_of(made)
    experience = made.experience_from(rollouts, advantages)
    parts = split(experience, 4)
    found = [
        (ids[1:][mask].tolist(), old[mask].tolist(), part.advantages[b].item())
        for part in parts
        for b, (ids, mask, old) in enumerate(zip(part.input_ids, part.mask, part.old_logps, strict=True))
    ]
    expected = [
        (r.completion_ids, pytest.approx(r.logps), a) for r, a in zip(rollouts, advantages.tolist(), strict=True)
    ]
    assert sorted(found, key=lambda f: f[2]) == sorted(expected, key=lambda e: e[2])
    assert {part.num_tokens for part in parts} == {sum(len(r.completion_ids) for r in rollouts)}
    widths = [part.input_ids.shape[1] for part in parts]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0]
    for part in parts:
        assert part.mask[:, -1].any()


def test_rollouts_depend_on_seed_and_step(stage: Stages) -> None:
    first, again = stage("stage=grpo").collect(0), stage("stage=grpo").collect(0)
    assert first.input_ids.equal(again.input_ids)
    same_weights = stage("stage=grpo")
    same_weights.seed = 1
    assert not torch.equal(same_weights.collect(0).input_ids, first.input_ids)
    assert len({tuple(row.tolist()) for row in first.input_ids}) == 16


def test_the_same_prompt_is_answered_anew_in_the_next_step(stage: Stages) -> None:
    made = stage("stage=grpo", "data.num_train=4")
    completions = []
    for step in (0, 1):
        batch = made.collect(step)
        ends = [int(mask.nonzero().max()) + 2 for mask in batch.mask]
        completions.append({tuple(ids[:end].tolist()) for ids, end in zip(batch.input_ids, ends, strict=True)})
    assert sorted(made.step_indices(0)) == sorted(made.step_indices(1)) == [0, 1, 2, 3]
    assert not completions[0] & completions[1]


# ---- rewards ----


def test_metrics_of_a_rollout_batch_by_hand(stage: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first completion of each group has no reward; the last group's are all alike."""
    made = stage("stage=grpo")
    rewards = [[None, 0.0, 1.0, 0.25], [None, 0.25, 0.25, 1.0], [None, 0.0, 0.0, 2.0], [None, 1.0, 1.0, 1.0]]
    term = made.rewards.terms["low_ids"]
    flat = [r for group in rewards for r in group]
    monkeypatch.setitem(made.rewards.terms, "low_ids", replace(term, function=lambda completions: flat, weight=2.0))
    experience = made.collect(0)
    there = [[2 * r for r in group if r is not None] for group in rewards]
    assert made._sums["train/reward"] == pytest.approx(fmean(r for group in there for r in group))
    assert made._sums["train/reward_std"] == pytest.approx(fmean(map(stdev, there)))
    assert made._sums["train/frac_zero_std"] == 0.25
    assert made._sums["reward/low_ids"] == pytest.approx(fmean(r for group in there for r in group) / 2)
    assert made._sums["reward/low_ids_weighted"] == made._sums["train/reward"]
    assert made._sums["train/completion_length"] == pytest.approx(experience.mask.sum().item() / 16)
    ends = [ids[1:][mask][-1].item() for ids, mask in zip(experience.input_ids, experience.mask, strict=True)]
    assert made._sums["train/truncated"] == pytest.approx(fmean(end not in STOPS for end in ends))
    assert (experience.advantages == 0).sum() == 4 + 3
    assert experience.advantages.isfinite().all()


# ---- whole runs ----


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_run_reports_the_same_step_whatever_the_micro_batch_size(
    small: Callable[..., Config], tmp_path: Path
) -> None:
    """The gradient that Lightning hands to the optimizer, not only the one that this file accumulates."""
    found = []
    for size in (1, 4, 16):
        knobs = [f"stage.micro_batch_size={size}", "trainer.max_steps=1", f"output_dir={tmp_path / str(size)}"]
        execute(small("stage=grpo", *knobs), [])
        found.append(next(row for row in rows(tmp_path / str(size)) if "train/loss" in row))
    assert found[0]["train/grad_norm"] > 0.1
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)


def test_every_rollout_is_made_by_the_newest_weights(small: Callable[..., Config], tmp_path: Path) -> None:
    """Nothing is fetched ahead: only the second of two steps on one rollout batch meets ratios other than 1."""
    knobs = ["stage.num_iterations=2", "trainer.max_steps=6", "stage.lr=1.0e-2", "stage.clip_low=0.05"]
    execute(small("stage=grpo", *knobs, f"output_dir={tmp_path / 'run'}"), [])
    clipped = [row["train/clip_frac"] > 0 for row in rows(tmp_path / "run") if "train/clip_frac" in row]
    assert clipped == [False, True] * 3


def test_it_learns(small: Callable[..., Config], tmp_path: Path) -> None:
    knobs = ["trainer.max_steps=20", "stage.lr=1.0e-2", "stage.group_size=8", "val.every=20"]
    execute(small("stage=grpo", *knobs, f"output_dir={tmp_path / 'run'}"), [])
    rewards = [row["train/reward"] for row in rows(tmp_path / "run") if "train/reward" in row]
    assert len(rewards) == 20
    assert fmean(rewards[:3]) < 0.6
    assert fmean(rewards[-3:]) > 0.85
    before, after = ([row for row in rows(tmp_path / "run") if "val/pass@1" in row][i] for i in (0, -1))
    assert after["val/reward/low_ids"] > before["val/reward/low_ids"] + 0.2


def test_the_record_shows_one_whole_group_per_rollout_batch(small: Callable[..., Config], tmp_path: Path) -> None:
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
