"""Groups without signal: what is counted, what goes through the model, what is drawn again; and cut-off completions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slow import STOPS, Ranks, assert_same, collected, flat, gradient, groups_of, move
from torch import Tensor

from r1.core.seeds import batch_indices, derive_seed
from r1.run import execute
from r1.stage.advantage.base import expected_frac_zero_std
from r1.stage.grpo import Grpo
from r1.stage.loss.base import StepCounts
from r1.stage.rl.experience import Experience, Group, split
from r1.stage.rl.group_sampler import PromptKey
from r1.stage.runtime.policy_sampler import PolicySampler

Stages = Callable[..., Grpo]
Config = dict[str, Any]
TEMPERATURE = "rollout.temperature=0.8"


@pytest.fixture(autouse=True, scope="module")
def many_stops() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicySampler, "stop_ids", property(lambda self: STOPS))
        yield


def same_rewards(groups: list[Group], places: tuple[int, ...]) -> list[Group]:
    """The same groups, those at ``places`` with equal rewards."""
    found = list(groups)
    for place in places:
        scores = found[place].scores
        equal = replace(scores, terms={"low_ids": [0.5] * 4}, total=[0.5] * 4)
        found[place] = replace(found[place], scores=equal)
    return found


def learned_from(made: Grpo, groups: list[Group]) -> Experience:
    return made.with_logps(made.select(made.with_advantages(groups), groups))


def lengths_of(groups: list[Group]) -> list[int]:
    return [len(r.completion_ids) for r in flat(groups)]


# ---- keep, mask, drop ----


@pytest.mark.parametrize("option", ["keep", "mask", "drop", "resample"])
def test_zero_variance_option_selects_and_counts_groups(stage: Stages, option: str) -> None:
    """Four groups of four, the second without signal."""
    made = stage("stage=grpo", f"stage.zero_variance={option}", TEMPERATURE)
    groups = same_rewards(groups_of(made), (1,))
    experience = learned_from(made, groups)
    lengths = lengths_of(groups)
    every, others = sum(lengths), sum(lengths) - sum(lengths[4:8])
    expected = {  # tokens of the mean, sequences of the mean, tokens through the model
        "keep": (every, 16, every),
        "mask": (every, 16, others),
        "drop": (others, 12, others),
        "resample": (others, 12, others),
    }[option]
    counts = experience.counts
    assert (counts.num_tokens, counts.num_sequences, counts.active_tokens) == expected
    assert counts.device_tokens == counts.num_tokens
    assert experience.lengths == (lengths if option == "keep" else lengths[:4] + lengths[8:])
    assert experience.num_tokens == expected[2]
    assert (experience.advantages == 0).sum() == (4 if option == "keep" else 0)


@pytest.mark.parametrize(("loss", "option"), [(o, z) for o in ("grpo", "dapo", "dr_grpo") for z in ("mask", "drop")])
def test_weights_of_groups_with_signal_match_hand_computation(stage: Stages, loss: str, option: str) -> None:
    made = stage("stage=grpo", f"stage.zero_variance={option}", f"stage/loss={loss}", TEMPERATURE)
    groups = same_rewards(groups_of(made), (1,))
    experience = learned_from(made, groups)
    lengths = lengths_of(groups)
    sequences = 16 if option == "mask" else 12
    tokens = sum(lengths) if option == "mask" else sum(lengths) - sum(lengths[4:8])
    weight = {"grpo": 1 / sequences / lengths[0], "dapo": 1 / tokens, "dr_grpo": 1 / sequences / 8}[loss]
    assert made.objective.loss.weights(experience.mask, experience.counts)[0, 0].item() == pytest.approx(weight)


def step(made: Grpo, groups: list[Group]) -> tuple[Tensor, dict[str, float]]:
    experience = learned_from(made, groups)
    move(made.policy)
    made.step_metrics.clear()
    return gradient(made, split(experience, 4)), dict(made.step_metrics)


def test_mask_keeps_and_drop_scales_gradient_without_kl_and_entropy(stage: Stages) -> None:
    found = {}
    for option in ("keep", "mask", "drop"):
        made = stage("stage=grpo", f"stage.zero_variance={option}", TEMPERATURE)
        groups = same_rewards(groups_of(made), (1,))
        found[option], _ = step(made, groups)
    lengths = lengths_of(groups)
    assert_same(found["mask"], found["keep"])
    assert_same(found["drop"], found["keep"] * sum(lengths) / (sum(lengths) - sum(lengths[4:8])))


@pytest.mark.parametrize("option", ["keep", "mask", "drop"])
def test_zero_variance_option_decides_tokens_of_kl_and_entropy(stage: Stages, option: str) -> None:
    """The terms by hand, over the tokens that go through the model, divided by the tokens that are counted."""
    knobs = ["stage.kl_coef=0.3", "stage.entropy_coef=0.1", f"stage.zero_variance={option}", TEMPERATURE]
    made = stage("stage=grpo", *knobs)
    groups = same_rewards(groups_of(made), (0, 1, 2, 3))[:1] + groups_of(made)[1:]
    experience = learned_from(made, groups)
    silent = replace(experience, advantages=torch.zeros(len(experience)))
    move(made.policy)
    made.step_metrics.clear()
    found = gradient(made, split(silent, 4))
    made.policy.zero_grad()
    logps, entropy = made.forward_logps(made.policy, silent, entropy_gradient=True)
    kl = made.kl(logps, silent.ref_logps)[silent.mask]
    loss = (0.3 * kl.sum() - 0.1 * entropy[silent.mask].sum()) / silent.counts.num_tokens
    loss.backward()
    assert_same(found, collected(made.policy))
    assert made.step_metrics["train/loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert len(kl) == sum(lengths_of(groups)[0 if option == "keep" else 4 :])
    assert made.step_metrics["train/kl"] == pytest.approx(kl.mean().item(), abs=1e-6)  # of those that were worked out
    assert made.step_metrics["train/entropy"] == pytest.approx(entropy[silent.mask].mean().item(), abs=1e-5)


def test_kl_in_reward_is_not_a_signal(stage: Stages) -> None:
    """A group of equal rewards is dropped, however much its KLs differ."""
    made = stage("stage=grpo", "stage.zero_variance=drop", "stage.kl_coef=0.5", "stage.kl_in=reward", TEMPERATURE)
    move(made.policy)
    experience = learned_from(made, same_rewards(groups_of(made), (2,)))
    assert len(experience) == 12


# ---- resample ----


def attempts_of(made: Grpo) -> list[tuple[int, list[int]]]:
    """Every draw after the first, as (attempt, prompts) in the order made."""
    drawn: list[tuple[int, list[int]]] = []
    original = made.group_sampler.sample

    def recording(number: int, keys: list[PromptKey], attempt: int = 0) -> list[Group]:
        drawn.append((attempt, [key.example for key in keys]))
        return original(number, keys, attempt)

    made.group_sampler.sample = recording
    return drawn


def test_resample_replaces_only_groups_without_signal(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.zero_variance=resample", TEMPERATURE)
    before = same_rewards(groups_of(made), (1, 3))
    drawn = attempts_of(made)
    after = made.group_sampler.resample(0, made.prompt_keys(0), before)
    wanted = batch_indices(derive_seed(made.seed, "resample", 1), 0, 4, 64)[:2]
    assert drawn == [(1, wanted)]
    assert [after[0], after[2]] == [before[0], before[2]]
    assert [after[p].row for p in (1, 3)] == [made.data.train[i] for i in wanted]
    assert made.step_metrics["train/resampled"] == 0.5
    assert len(learned_from(made, after)) == 16


@pytest.mark.parametrize("max_resamples", [1, 3])
def test_resample_stops_after_max_resamples(stage: Stages, monkeypatch: pytest.MonkeyPatch, max_resamples: int) -> None:
    """Rewards that are all alike: every prompt is drawn again, each time another, and dropped in the end."""
    made = stage("stage=grpo", "stage.zero_variance=resample", f"stage.max_resamples={max_resamples}", TEMPERATURE)
    equal(made, monkeypatch)
    drawn = attempts_of(made)
    experience = made.collect(0)[0]
    assert [attempt for attempt, _ in drawn] == list(range(max_resamples + 1))
    assert len({tuple(indices) for _, indices in drawn}) == max_resamples + 1
    assert len(experience) == 0
    assert made.step_metrics["train/resampled"] == max_resamples


def equal(made: Grpo, monkeypatch: pytest.MonkeyPatch) -> None:
    term = made.sampler.rewards.terms["low_ids"]
    constant = replace(term, function=lambda completions: [0.5] * len(completions))
    monkeypatch.setitem(made.sampler.rewards.terms, "low_ids", constant)


def sparse(completion_ids: list[list[int]]) -> list[float]:
    """A reward that most groups of four earn never: low entropy of signal, so that prompts are drawn again."""
    return [float(ids[0] < 60) for ids in completion_ids]


def sparsely(made: Grpo) -> Grpo:
    made.sampler.rewards.terms["low_ids"] = replace(made.sampler.rewards.terms["low_ids"], function=sparse)
    return made


def test_resample_is_deterministic(stage: Stages) -> None:
    first, again = (
        sparsely(stage("stage=grpo", "stage.zero_variance=resample", TEMPERATURE)).collect(0)[0] for _ in range(2)
    )
    assert first.completion_ids.equal(again.completion_ids)
    assert first.prompt_ids.equal(again.prompt_ids)
    assert first.counts == again.counts


def test_resample_does_not_depend_on_number_of_devices(stage: Stages) -> None:
    """Two devices with half of the places each hand the same fresh prompts to the same places."""
    knobs = ["stage=grpo", "stage.zero_variance=resample", "stage.max_resamples=4", TEMPERATURE]
    alone = sparsely(stage(*knobs))
    drawn = attempts_of(alone)
    expected = alone.collect(0)[0]
    assert 2 < len(drawn) <= 5  # several tries, and not all of them for nothing
    assert 0 < len(expected) < 16
    ranks = [
        sparsely(stage(*knobs, "trainer.devices=2", "stage.micro_batch_size=4", world_size=2, global_rank=r))
        for r in (0, 1)
    ]
    parts = Ranks(ranks).do(lambda made: made.collect(0)[0])
    assert rows_of(parts[0]) + rows_of(parts[1]) == rows_of(expected)
    for part in parts:
        assert replace(part.counts, device_tokens=0, num_devices=1) == replace(expected.counts, device_tokens=0)
    assert sum(part.counts.device_tokens for part in parts) == expected.counts.num_tokens


def rows_of(part: Experience) -> list[tuple[list[int], list[int], float]]:
    return [
        (
            part.prompt_ids[part.prompt_index[b], : part.prompt_lengths[part.prompt_index[b]]].tolist(),
            part.completion_ids[b, :n].tolist(),
            part.advantages[b].item(),
        )
        for b, n in enumerate(part.lengths)
    ]


# ---- nothing is left ----


@pytest.mark.parametrize("option", ["mask", "drop", "resample"])
def test_step_without_signal_has_zero_gradient(stage: Stages, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    made = stage("stage=grpo", f"stage.zero_variance={option}", "stage.kl_coef=0.1", "stage.entropy_coef=0.1")
    equal(made, monkeypatch)
    batches = made.micro_batches(0)
    assert [len(batch) for batch in batches] == [0] * 4
    made.policy.zero_grad()
    for batch in batches:
        made.training_step(batch, 0).backward()
    gradients = [p.grad for p in made.policy.parameters()]
    assert all(g is not None and not g.any() for g in gradients)
    assert batches[0].counts == StepCounts(
        num_tokens=0 if option != "mask" else batches[0].counts.num_tokens,
        num_sequences=16 if option == "mask" else 0,
        max_completion_length=8,
        device_tokens=batches[0].counts.num_tokens,
        num_devices=1,
        active_tokens=0,
    )


def test_step_with_few_completions_has_empty_micro_batches(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.zero_variance=drop", "stage.micro_batch_size=1", TEMPERATURE)
    experience = learned_from(made, same_rewards(groups_of(made), (0, 1, 3)))
    parts = split(experience, made.plan.num_micro_batches)
    assert sorted(len(part) for part in parts) == [0] * 12 + [1] * 4
    move(made.policy)
    found = gradient(made, parts)
    made.plan = replace(made.plan, micro_batch_size=16)
    assert_same(found, gradient(made, [experience]))


def constant(completions: list[str]) -> list[float]:
    """A reward that never differs."""
    return [0.5] * len(completions)


@pytest.mark.parametrize("option", ["drop", "resample"])
def test_run_without_signal_leaves_weights_unchanged(small: Callable[..., Config], folder: Path, option: str) -> None:
    term = f"reward.terms.low_ids._target_={constant.__module__}.constant"
    knobs = [term, f"extensions=[conftest,{constant.__module__}]", f"stage.zero_variance={option}", "stage.kl_coef=0.1"]
    execute(small("stage=grpo", *knobs, "trainer.max_steps=2", f"output_dir={folder}"), [])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/reward" in line]
    assert [line["train/grad_norm"] for line in steps] == [0.0, 0.0]
    assert [line["train/frac_zero_std"] for line in steps] == [1.0, 1.0]
    assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
    start, *_, end = (line for line in lines if "val/pass@1" in line)
    assert {**start, "step": 2} == end


# ---- what is reported ----


def test_frac_zero_std_is_measured_before_resampling(stage: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage("stage=grpo", "stage.zero_variance=resample", TEMPERATURE)
    calls: list[int] = []

    def first_all_alike(completion_ids: list[list[int]]) -> list[float]:
        """Three of the first four groups, and none that is drawn later."""
        calls.append(len(completion_ids))
        spread = [len(set(ids)) + b for b, ids in enumerate(completion_ids)]
        return [1.0] * 12 + spread[12:] if len(calls) == 1 else [float(s) for s in spread]

    term = made.sampler.rewards.terms["low_ids"]
    monkeypatch.setitem(made.sampler.rewards.terms, "low_ids", replace(term, function=first_all_alike))
    assert len(made.collect(0)[0]) == 16
    assert calls == [16, 12]
    assert made.step_metrics["train/frac_zero_std"] == 0.75
    assert made.step_metrics["train/resampled"] == 0.75


@pytest.mark.parametrize(
    ("solved", "group_size", "expected"), [(0.5, 2, 0.5), (0.5, 4, 1 / 8), (0.1, 2, 0.82), (1.0, 8, 1.0), (0.0, 8, 1.0)]
)
def test_expected_frac_zero_std_matches_hand_computation(solved: float, group_size: int, expected: float) -> None:
    assert expected_frac_zero_std(solved, group_size) == pytest.approx(expected)


@given(solved=st.floats(0, 1), group_size=st.integers(1, 64))
def test_expected_frac_zero_std_is_symmetric_in_0_to_1(solved: float, group_size: int) -> None:
    found = expected_frac_zero_std(solved, group_size)
    assert 0 <= found <= 1
    assert found == pytest.approx(expected_frac_zero_std(1 - solved, group_size))
    assert expected_frac_zero_std(solved, 1) == pytest.approx(1.0)


# ---- completions that ran into the limit ----


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
def test_mask_truncated_removes_truncated_completions(stage: Stages, loss: str) -> None:
    """Their tokens are not counted; they remain completions, also in a mean over completions."""
    knobs = [f"stage/loss={loss}", "stage.kl_coef=0.1", TEMPERATURE]
    made = stage("stage=grpo", "stage.mask_truncated=true", *knobs)
    groups = groups_of(made)
    cut = [r.truncated for r in flat(groups)]
    assert 0 < sum(cut) < 16
    experience = learned_from(made, groups)
    lengths = [n for n, gone in zip(lengths_of(groups), cut, strict=True) if not gone]
    assert experience.lengths == lengths
    counts = experience.counts
    assert (counts.num_tokens, counts.num_sequences, counts.active_tokens) == (sum(lengths), 16, sum(lengths))
    found, _ = step(made, groups)
    plain = stage("stage=grpo", *knobs)
    everything = plain.with_advantages(groups)
    everything = plain.with_logps(plain.select(everything, groups))
    move(plain.policy)
    plain.policy.zero_grad()
    logps, _ = plain.forward_logps(plain.policy, everything)
    mask = everything.mask & ~torch.tensor(cut)[:, None]
    cost, _ = plain.objective.loss.per_token(
        logps, everything.old_logps, everything.advantages[:, None], mask, plain.objective.clip
    )
    cost = cost + 0.1 * plain.kl(logps, everything.ref_logps)
    (cost * plain.objective.loss.weights(mask, counts)).sum().backward()
    assert_same(found, collected(plain.policy))


def test_truncated_completion_counts_in_group_statistics(stage: Stages) -> None:
    masked, plain = (stage("stage=grpo", f"stage.mask_truncated={value}", TEMPERATURE) for value in ("true", "false"))
    groups = groups_of(plain)
    kept = [b for b, r in enumerate(flat(groups)) if not r.truncated]
    expected = learned_from(plain, groups).advantages[kept]
    assert learned_from(masked, groups).advantages.equal(expected)


def test_truncated_groups_without_signal_match_hand_computation(stage: Stages) -> None:
    made = stage("stage=grpo", "stage.mask_truncated=true", "stage.zero_variance=drop", TEMPERATURE)
    groups = same_rewards(groups_of(made), (0,))
    experience = learned_from(made, groups)
    lengths = [len(r.completion_ids) for r in flat(groups[1:]) if not r.truncated]
    assert experience.lengths == lengths
    assert (experience.counts.num_tokens, experience.counts.num_sequences) == (sum(lengths), 12)
