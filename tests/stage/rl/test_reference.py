"""The reference model: the start of the run, or a copy that follows the policy, exactly, also over a resume."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from slow import STOPS, groups_of, move
from torch import Tensor

from r1.run import execute
from r1.stage.grpo import Grpo
from r1.stage.rl.reference import Reference
from r1.stage.runtime.policy_sampler import PolicySampler

Stages = Callable[..., Grpo]
Config = dict[str, Any]
KL = ["stage=grpo", "stage.kl_coef=0.1"]


@pytest.fixture(autouse=True, scope="module")
def many_stops() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicySampler, "stop_ids", property(lambda self: STOPS))
        yield


def weights(model: torch.nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


# ---- one that does not move ----


def test_reference_stays_the_initial_policy(stage: Stages) -> None:
    made = stage(*KL)
    experience = made.collect(0)[0]
    assert (experience.ref_logps - experience.old_logps).abs().max() < 1e-5
    move(made.policy)
    made.configure_model()  # Lightning calls it again for each of validate and fit
    for step in range(4):
        made.reference.sync(made.policy, step)
    assert made.logps_under(made.reference.model, experience).equal(experience.ref_logps)
    assert made.loader_state(4)["reference"] is None


def test_reference_is_not_saved_trained_or_loaded_without_need(stage: Stages) -> None:
    with_ref, without = stage(*KL), stage("stage=grpo")
    assert with_ref.state_dict().keys() == without.state_dict().keys()
    assert not any(p.requires_grad for p in with_ref.reference.model.parameters())
    assert not with_ref.reference.model.training
    assert without.reference is None


def test_max_kl_alone_loads_reference(stage: Stages) -> None:
    """Without a coefficient the KL is measured and not learned."""
    guarded, plain = stage("stage=grpo", "stage.max_kl=10"), stage("stage=grpo")
    for made in (guarded, plain):
        batches = made.micro_batches(0)
        move(made.policy)
        made.policy.zero_grad()
        for batch in batches:
            made.training_step(batch, 0).backward()
    assert guarded.step_metrics["train/kl"] > 1e-3
    assert "train/kl" not in plain.step_metrics
    for a, b in zip(guarded.policy.parameters(), plain.policy.parameters(), strict=True):
        assert a.grad.equal(b.grad)


# ---- one that moves ----


def walk(made: Grpo, num_steps: int) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Weights of the policy and of the reference in each step, the policy moving after it."""
    policies, references = [], []
    for step in range(num_steps):
        made.reference.sync(made.policy, step)
        policies.append(weights(made.policy))
        references.append(weights(made.reference.model))
        move(made.policy, seed=step)
    return policies, references


def test_reference_copies_policy_every_n_steps(stage: Stages) -> None:
    policies, references = walk(stage(*KL, "stage.ref_sync_every=2"), 7)
    for step, found in enumerate(references):
        assert_equal(found, policies[step // 2 * 2])


def test_reference_moving_average_matches_hand_computation(stage: Stages) -> None:
    policies, references = walk(stage(*KL, "stage.ref_sync_every=1", "stage.ref_sync_mix=0.25"), 5)
    expected = policies[0]
    for policy, found in zip(policies[1:], references[1:], strict=True):
        expected = [0.25 * p + 0.75 * e for p, e in zip(policy, expected, strict=True)]
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_reference_moving_average_every_n_steps_matches_hand_computation(stage: Stages) -> None:
    policies, references = walk(stage(*KL, "stage.ref_sync_every=3", "stage.ref_sync_mix=0.5"), 7)
    after_3 = [0.5 * p + 0.5 * e for p, e in zip(policies[3], policies[0], strict=True)]
    after_6 = [0.5 * p + 0.5 * e for p, e in zip(policies[6], after_3, strict=True)]
    for step, expected in ((2, policies[0]), (3, after_3), (5, after_3), (6, after_6)):
        for a, b in zip(references[step], expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_restarted_step_syncs_reference_once(stage: Stages) -> None:
    """A stop in a rollout comes after the reference has moved and before the step is made."""
    made = stage(*KL, "stage.ref_sync_every=1", "stage.ref_sync_mix=0.25")
    move(made.policy)
    made.reference.sync(made.policy, 1)
    expected = weights(made.reference.model)
    made.reference.sync(made.policy, 1)
    assert_equal(weights(made.reference.model), expected)
    other = stage(*KL, "stage.ref_sync_every=1", "stage.ref_sync_mix=0.25")
    other.load_loader_state([made.loader_state(1)])
    other.reference.sync(made.policy, 1)
    assert_equal(weights(other.reference.model), expected)


def test_kl_uses_reference_of_the_rollout(stage: Stages) -> None:
    made = stage(*KL, "stage.ref_sync_every=1")
    move(made.policy)
    batches = made.micro_batches(1)
    for batch in batches:
        assert (batch.ref_logps - batch.old_logps).abs().max() < 1e-5  # it has just been copied
    made.reference.sync_every = None
    move(made.policy, seed=8)
    (first, *_) = made.micro_batches(2)
    assert (first.ref_logps - first.old_logps).abs().max() > 1e-3


def test_moving_reference_is_saved_and_restored(stage: Stages) -> None:
    knobs = [*KL, "stage.ref_sync_every=2", "stage.ref_sync_mix=0.5"]
    made = stage(*knobs)
    walk(made, 3)
    state = copy.deepcopy(made.loader_state(3))
    assert state["reference"] is not None
    for loaded_first in (True, False):  # Lightning may restore before or after it configures the model
        other = stage(*knobs)
        if loaded_first:
            other.reference.model = None
        other.load_loader_state([state])
        other.configure_model()
        assert_equal(weights(other.reference.model), weights(made.reference.model))


def test_reference_with_adapters_syncs_them(stage: Stages) -> None:
    made = stage(*KL, "stage.ref_sync_every=1", "+model/lora=default", "model.lora.r=2")
    groups = groups_of(made)
    trained = [p for p in made.policy.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p += 0.1
    batch = made.with_advantages(groups)
    before = made.logps_under(made.reference.model, batch)
    made.reference.sync(made.policy, 1)
    after = made.logps_under(made.reference.model, batch)
    assert (after - before).abs().max() > 1e-3
    assert (after - made.logps_under(made.policy, batch)).abs().max() < 1e-6


def test_reference_before_start_has_no_state() -> None:
    assert Reference(sync_every=3, mix=1.0).state() is None


# ---- whole runs ----


class Crash(Exception):
    """Stands for a power cut."""


@pytest.mark.parametrize(
    "moves",
    [
        ["stage.ref_sync_every=2"],
        pytest.param(["stage.ref_sync_every=1", "stage.ref_sync_mix=0.3"], marks=pytest.mark.long),
    ],
)
def test_resumed_run_with_moving_reference_has_same_bits(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: list[str]
) -> None:
    def run(name: str, *more: str) -> Path:
        knobs = [*KL, *moves, "stage.lr=0.01", "checkpoint_every=1", "val.every=6", *more]
        execute(small(*knobs, f"output_dir={tmp_path / name}"), [])
        return tmp_path / name

    whole = run("whole")
    original, crashed = Grpo.training_step, []

    def crashing(self: Grpo, *args: Any) -> Any:
        if self.trainer.global_step == 4 and not crashed:
            crashed.append(True)
            raise Crash
        return original(self, *args)

    monkeypatch.setattr(Grpo, "training_step", crashing)
    with pytest.raises(Crash):
        run("cut")
    again = run("cut", "resume=auto")
    left, right = (load_file(folder / "model" / "model.safetensors") for folder in (whole, again))
    assert all(left[name].equal(right[name]) for name in left)
    assert (whole / "metrics.jsonl").read_text() == (again / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(row["train/kl"] > 0 for row in rows if "train/kl" in row and row["step"] in (2, 4, 6))
