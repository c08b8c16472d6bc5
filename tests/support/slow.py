"""What the tests of GRPO share: rollouts, a step off policy, gradients, stand-ins for devices, a slow reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest
import torch
from options import option_names
from torch import Tensor
from torch.nn.functional import rms_norm
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from r1.core.rank_info import RankInfo
from r1.distributed.collectives import RankGroup
from r1.rollout.base import Rollout
from r1.stage.grpo import Grpo
from r1.stage.rl.experience import Experience, Group, split

LOSSES = option_names("stage/loss")
REFERENCED = ["grpo", "dapo", "bnpo", "dr_grpo", "cispo", "gspo", "sapo", "kimi"]  # those that slow_loss knows
STOPS = set(range(500, 610))  # a sixth of the vocabulary, so that completions end at different places
SAPO_TAU, KIMI_TAU = (1.0, 1.05), 0.01  # conf/stage/loss
LIMIT = 8  # conftest's max_completion_length


def collected(model: torch.nn.Module) -> Tensor:
    """All gradients in a row; zeros where there is none."""
    parameters = (p for p in model.parameters() if p.requires_grad)
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def gradient(stage: Any, batches: Sequence[Any]) -> Tensor:
    """The gradient of one optimizer step, accumulated and divided as Lightning does."""
    stage.policy.zero_grad()
    for i, batch in enumerate(batches):
        (stage.training_step(batch, i) / len(batches)).backward()
    return collected(stage.policy)


def in_parts(stage: Grpo, experience: Experience, micro_batch_size: int) -> Tensor:
    """The gradient of an experience in micro-batches of this size."""
    stage.plan = replace(stage.plan, micro_batch_size=micro_batch_size)
    return gradient(stage, split(experience, stage.plan.num_micro_batches))


@contextmanager
def float64() -> Iterator[None]:
    """Compute in float64 all that r1 and Llama compute in float32, which they do even in half precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        norm = lambda self, states: rms_norm(states, states.shape[-1:], self.weight, self.variance_epsilon)  # noqa: E731
        patch.setattr(LlamaRMSNorm, "forward", norm)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def in_float64(experience: Experience) -> Experience:
    """The same log-probs and advantages as float64, for a step inside ``float64``."""
    values = {name: value for name, value in vars(experience).items() if isinstance(value, Tensor)}
    return replace(experience, **{name: v.double() for name, v in values.items() if v.is_floating_point()})


def assert_same(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    assert expected.abs().max() > 1e-3
    assert (found - expected).abs().max() < atol * max(1.0, expected.abs().max().item())


def move(model: torch.nn.Module, size: float = 0.02, seed: int = 5) -> None:
    """Move the weights, as an optimizer step would, so that ratios leave 1 and some are clipped."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += size * torch.randn(p.shape, generator=generator)


def groups_of(stage: Grpo) -> list[Group]:
    """A step's scored rollouts, of different lengths."""
    groups = stage.group_sampler.sample(0, stage.prompt_keys(0))
    assert len({len(r.completion_ids) for r in flat(groups)}) > 3
    return groups


def flat(groups: Sequence[Group]) -> list[Rollout]:
    return [r for group in groups for r in group.rollouts]


def chosen(stage: Grpo, groups: Sequence[Group], engine_noise: float = 0.0) -> Experience:
    """The experience of these rollouts, with random advantages; ``engine_noise`` is added to the sampled log-probs."""
    made = stage.with_advantages(groups)
    generator = torch.Generator().manual_seed(6)
    noise = engine_noise * torch.randn(made.engine_logps.shape, generator=generator) * made.mask
    made = replace(made, advantages=torch.randn(len(made), generator=generator), engine_logps=made.engine_logps + noise)
    return stage.with_logps(stage.select(made, groups))


# ---- the reference: the losses of the papers, one token at a time ----


def next_logps(model: PreTrainedModel, rollout: Rollout, t: int, temperature: float) -> Tensor:
    """(V,) log-probabilities of token ``t`` of a completion, from a forward pass over what comes before it."""
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids[:t]])
    return (model(input_ids=ids).logits[0, -1] / temperature).log_softmax(-1)


def divergence(estimator: str, now: Tensor, ref: Tensor) -> Tensor:
    gap = now - ref
    return {"k1": gap, "k2": gap**2 / 2, "k3": torch.exp(-gap) - 1 + gap}[estimator]


def token_cost(loss: str, now: Tensor, ratio: Tensor, advantage: float, knobs: dict[str, Any]) -> Tensor:
    low, high, dual = knobs["clip_low"], knobs["clip_high"], knobs["clip_dual"]
    if loss == "kimi":  # the square of Kimi K2, for which ``ratio`` is the product over the completion
        return ((advantage - KIMI_TAU * ratio.log()) ** 2 - advantage**2) / (2 * KIMI_TAU)
    if loss == "sapo":
        tau = SAPO_TAU[0] if advantage > 0 else SAPO_TAU[1]
        return -4 / tau * advantage / (1 + torch.exp(-tau * (ratio - 1)))
    if loss == "cispo":
        return -min(ratio.item(), 1 + high) * advantage * now
    clipped = min(max(ratio, torch.tensor(1 - low)), torch.tensor(1 + high))
    gain = min(ratio * advantage, clipped * advantage)
    if dual is not None and advantage < 0:
        gain = max(gain, torch.tensor(dual * advantage))
    return -gain


def importance_weight(importance: Any, gaps: Sequence[float], t: int) -> float:
    """``importance``: None, or its name, low and high; ``gaps``: log pi_trainer / pi_engine of each token."""
    if importance is None:
        return 1.0
    name, low, high = importance
    ratio = math.exp(sum(gaps) if name.startswith("sequence") else gaps[t])
    is_inside = low <= ratio <= high
    return ratio if is_inside else 0.0 if name.endswith("mask") else min(max(ratio, low), high)


def slow_loss(
    policy: PreTrainedModel,
    start: PreTrainedModel,
    rollouts: Sequence[Rollout],
    experience: Experience,
    loss: str,
    knobs: dict[str, Any],
) -> Tensor:
    """Every token of every completion, in the order of the experience; ``knobs`` are those of conf/stage/grpo.yaml."""
    temperature, total = knobs["temperature"], torch.tensor(0.0)
    num_tokens, count = sum(len(r.completion_ids) for r in rollouts), len(rollouts)
    for b, rollout in enumerate(rollouts):
        length, advantage = len(rollout.completion_ids), float(experience.advantages[b])
        rows = [next_logps(policy, rollout, t, temperature) for t in range(length)]
        now = [row[token] for row, token in zip(rows, rollout.completion_ids, strict=True)]
        with torch.no_grad():
            ref = [next_logps(start, rollout, t, temperature)[token] for t, token in enumerate(rollout.completion_ids)]
        engine = experience.engine_logps[b]
        old = engine if experience.old_logps is None else experience.old_logps[b]
        gaps = [now[t] - old[t] for t in range(length)]
        mean_gap = sum(gaps, torch.tensor(0.0)) / length
        engine_gaps = [(old[t] - engine[t]).item() for t in range(length)]
        weight = dict.fromkeys(("grpo", "gspo", "sapo", "kimi"), 1 / length / count) | {"dr_grpo": 1 / count / LIMIT}
        for t in range(length):
            gap = {"gspo": mean_gap, "kimi": mean_gap * length}.get(loss, gaps[t])
            cost = token_cost(loss, now[t], gap.exp(), advantage, knobs)
            cost = cost * importance_weight(knobs["importance"], engine_gaps, t)
            if knobs["kl_in"] == "loss":
                ratio = gaps[t].exp() if knobs.get("kl_unbiased") else 1.0
                cost = cost + knobs["kl_coef"] * ratio * divergence(knobs["kl_estimator"], now[t], ref[t])
            total = total + weight.get(loss, 1 / num_tokens) * cost
            entropy = -(rows[t].exp() * rows[t]).sum()
            total = total - knobs["entropy_coef"] * entropy / num_tokens
    return total


# ---- several devices ----


class Ranks:
    """Threads in place of processes: they wait for each other wherever processes would."""

    def __init__(self, stages: Sequence[Grpo]) -> None:
        self.stages = stages
        self.barrier = Barrier(len(stages), timeout=60)
        self.slots: list[Any] = [None] * len(stages)
        for rank, stage in enumerate(stages):
            self.join(stage, rank)

    def join(self, stage: Any, rank: int) -> None:
        stage.run.ranks = RankGroup(RankInfo(rank=rank, size=len(self.stages)))
        stage.run.ranks.gather = lambda value: self.exchange(rank, value)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.slots[rank] = value
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        return found

    def do(self, work: Callable[[Grpo], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self.stages)) as pool:
            return list(pool.map(work, self.stages))
