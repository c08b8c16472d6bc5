"""What must not change the gradient of a step of GRPO, for every loss of conf/stage/loss.

The rollouts are sampled in float32 and the gradients computed in float64: a loss whose large terms cancel is no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from slow import (
    LOSSES,
    STOPS,
    Ranks,
    assert_same,
    chosen,
    collected,
    float64,
    gradient,
    groups_of,
    in_float64,
    in_parts,
    move,
)
from torch import Tensor

from r1.model import fused_logprobs as head
from r1.model.forward import Forward
from r1.stage.grpo import Grpo
from r1.stage.rl.experience import Experience, select, split
from r1.stage.runtime.policy_sampler import PolicySampler

Stages = Callable[..., Grpo]
KNOBS = [
    "stage.clip_low=0.1",
    "stage.clip_high=0.15",
    "stage.kl_coef=0.1",
    "stage.entropy_coef=0.02",
    "rollout.temperature=0.8",
]
PER_DEVICE = ("bnpo",)  # by definition a mean over each device's tokens


@pytest.fixture(autouse=True, scope="module")
def many_stops() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicySampler, "stop_ids", property(lambda self: STOPS))
        yield


@dataclass
class Fixed:
    """A stage off policy, its experience, and the gradient of it in one piece."""

    stage: Grpo
    experience: Experience
    expected: Tensor


@pytest.fixture(params=LOSSES, scope="module")
def off_policy(stage: Stages, many_stops: None, request: pytest.FixtureRequest) -> Fixed:
    made = stage("stage=grpo", f"stage/loss={request.param}", *KNOBS)
    experience = in_float64(chosen(made, groups_of(made)))
    move(made.policy)
    made.policy.double()
    with float64():
        return Fixed(made, experience, in_parts(made, experience, 16))


@pytest.fixture
def fixed(off_policy: Fixed) -> Iterator[Fixed]:
    with float64():
        yield off_policy


def wider(experience: Experience, by: int, filler: int) -> Experience:
    """Padding behind every row of every tensor: any token may stand there."""
    pad = torch.nn.functional.pad
    ids = {name: pad(getattr(experience, name), (0, by), value=filler) for name in ("prompt_ids", "completion_ids")}
    logps = {name: pad(getattr(experience, name), (0, by)) for name in ("engine_logps", "old_logps", "ref_logps")}
    return replace(experience, **ids, **logps)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 8])
def test_gradient_does_not_depend_on_the_micro_batch_size(fixed: Fixed, micro_batch_size: int) -> None:
    assert_same(in_parts(fixed.stage, fixed.experience, micro_batch_size), fixed.expected)


@pytest.mark.parametrize("micro_batch_size", [2, 16])
def test_gradient_does_not_depend_on_the_order_of_sequences(fixed: Fixed, micro_batch_size: int) -> None:
    order = torch.randperm(16, generator=torch.Generator().manual_seed(7)).tolist()
    assert_same(in_parts(fixed.stage, select(fixed.experience, order), micro_batch_size), fixed.expected)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("filler", [0, 1, 77])  # the padding token, the closing token, any token
def test_gradient_does_not_depend_on_right_padding(
    fixed: Fixed, monkeypatch: pytest.MonkeyPatch, filler: int, packing: bool
) -> None:
    monkeypatch.setattr(fixed.stage, "forward_pass", Forward(packing, share_prompts=True))
    found = gradient(fixed.stage, [wider(fixed.experience, 5, filler)])  # as it is: `split` would trim it again
    assert_same(found, fixed.expected)


@pytest.mark.parametrize("more", [0, 3])
def test_gradient_equals_left_padded_plain_transformers(fixed: Fixed, more: int) -> None:
    """Prompts that end side by side, as a generation makes them: attention mask and positions say what is there."""
    made, experience = fixed.stage, fixed.experience
    width = max(experience.prompt_lengths) + more
    prompts = [experience.prompt_ids[p, : experience.prompt_lengths[p]] for p in experience.prompt_index]
    left = torch.stack([torch.nn.functional.pad(p, (width - len(p), 0), value=77) for p in prompts])
    there = torch.stack([torch.arange(width) >= width - len(p) for p in prompts])
    mask = torch.cat([there, experience.mask], dim=1).int()
    logits = made.policy(
        input_ids=torch.cat([left, experience.completion_ids], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
    ).logits[:, width - 1 : -1]
    rows = (logits / 0.8).log_softmax(-1)
    logps = rows.gather(2, experience.completion_ids[:, :, None]).squeeze(2)
    made.policy.zero_grad()
    cost, _ = made.objective.loss.per_token(
        logps, experience.old_logps, experience.advantages[:, None], experience.mask, made.objective.clip
    )
    cost = cost + 0.1 * made.kl(logps, experience.ref_logps)
    bonus = -(rows.exp() * rows).sum(2)[experience.mask].mean()
    (
        cost.masked_fill(~experience.mask, 0) * made.objective.loss.weights(experience.mask, experience.counts)
    ).sum().backward(retain_graph=True)
    (-0.02 * bonus).backward()
    assert_same(collected(made.policy), fixed.expected)


@pytest.mark.parametrize("micro_batch_size", [4, 16])
@pytest.mark.parametrize(("packing", "share_prompts"), [(True, False), (False, True), (False, False)])
def test_gradient_does_not_depend_on_packing_and_shared_prompts(
    fixed: Fixed, monkeypatch: pytest.MonkeyPatch, packing: bool, share_prompts: bool, micro_batch_size: int
) -> None:
    assert fixed.stage.forward_pass.packing
    assert fixed.stage.forward_pass.share_prompts
    monkeypatch.setattr(fixed.stage, "forward_pass", Forward(packing, share_prompts))
    assert_same(in_parts(fixed.stage, fixed.experience, micro_batch_size), fixed.expected)


@pytest.mark.parametrize("chunk", [64, 610])
@pytest.mark.parametrize("tile", [2**8, 2**13])
def test_gradient_does_not_depend_on_the_output_layers_tiles(
    fixed: Fixed, monkeypatch: pytest.MonkeyPatch, chunk: int, tile: int
) -> None:
    monkeypatch.setattr(head.head_logps, "__defaults__", (False, chunk, None))
    monkeypatch.setattr(head, "TILE", {"cpu": tile})
    assert_same(gradient(fixed.stage, [fixed.experience]), fixed.expected)


# ---- devices ----


def devices(stage: Stages, num_devices: int, *knobs: str) -> list[Grpo]:
    """One stage per device, each with its share of the prompts."""
    more = [f"trainer.devices={num_devices}", "stage.micro_batch_size=4"]
    made = [stage("stage=grpo", *knobs, *more, world_size=num_devices, global_rank=r) for r in range(num_devices)]
    return made


def float64_batches(made: Grpo) -> list[Experience]:
    batches = made.micro_batches(0)
    move(made.policy)
    made.policy.double()
    return [in_float64(batch) for batch in batches]


def step_gradients(*made: Grpo) -> list[Tensor]:
    """Those of each device's own part of a step."""
    batches = Ranks(made).do(float64_batches)
    with float64():
        return [gradient(one, part) for one, part in zip(made, batches, strict=True)]


@pytest.mark.parametrize(
    ("loss", "num_devices"), [*((loss, 2) for loss in LOSSES if loss not in PER_DEVICE), ("dapo", 4)]
)
def test_gradient_does_not_depend_on_the_number_of_devices(stage: Stages, loss: str, num_devices: int) -> None:
    """Each has a part of the prompts; their gradients are averaged, as DDP does."""
    knobs = [f"stage/loss={loss}", *KNOBS]
    alone = stage("stage=grpo", *knobs)
    (expected,) = step_gradients(alone)
    made = devices(stage, num_devices, *knobs)
    shares = step_gradients(*made)
    assert [i for one in made for i in one.step_indices(0)] == alone.step_indices(0)
    assert_same(sum(shares) / num_devices, expected)


def test_bnpo_gradient_is_the_mean_of_the_devices_gradients(stage: Stages) -> None:
    """By definition it depends on the devices: the mean over a device's tokens, then over devices."""
    plain = ["stage.clip_low=0.1", "stage.clip_high=0.15", "rollout.temperature=0.8"]
    found = sum(step_gradients(*devices(stage, 2, "stage/loss=bnpo", *plain))) / 2
    whole, alone = stage("stage=grpo", "stage/loss=dapo", *plain), []
    experience = in_float64(whole.collect(0)[0])
    move(whole.policy)
    whole.policy.double()
    with float64():
        for rows in (range(8), range(8, 16)):
            part = select(experience, rows)
            counts = replace(part.counts, num_tokens=part.num_tokens, num_sequences=8, device_tokens=part.num_tokens)
            alone.append(gradient(whole, split(replace(part, counts=counts), whole.plan.num_micro_batches)))
        together = gradient(whole, split(experience, whole.plan.num_micro_batches))
    assert_same(found, sum(alone) / 2)
    assert (found - together).abs().max() > 1e-4
