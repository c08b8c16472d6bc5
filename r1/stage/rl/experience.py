"""The data that GRPO learns from: scored groups, and the rollout batch built from them; no model, no config.

``zero_variance`` decides about groups whose rewards are all equal. Their advantages are zero with every option:

=========  ========================  ==================================  =====================================
option     goes through the model    counts in the loss's denominator    its tokens feel the KL and entropy terms
=========  ========================  ==================================  =====================================
keep       yes                       yes                                 yes
mask       no                        yes                                 no
drop       no                        no: the other groups weigh more     no
resample   the prompt is replaced by another one (DAPO's dynamic sampling), at most ``max_resamples`` times; groups
           that still have no signal then are dropped
=========  ========================  ==================================  =====================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from r1.model.sequences import Sequences, padded, stack
from r1.stage.advantage.base import has_signal
from r1.stage.loss.base import StepCounts

if TYPE_CHECKING:
    from r1.data.base import Row
    from r1.reward.base import Scores
    from r1.rollout.base import Rollout

ZeroVariance = Literal["keep", "mask", "drop", "resample"]


@dataclass(frozen=True)
class Group:
    """One prompt's G completions, as text and with their reward terms."""

    row: Row
    rollouts: list[Rollout]
    texts: list[str]
    scores: Scores

    @property
    def total(self) -> list[float]:
        """(G,) rewards."""
        return self.scores.total


@dataclass(frozen=True)
class Experience(Sequences):
    """A rollout batch, or a micro-batch of it: B completions with all that the loss needs.

    Attributes:
        advantages: (B,) A_i.
        engine_logps: (B, T) log-probabilities reported by the engine, 0 behind a completion's end.
        old_logps: (B, T) log pi_old of the weights that sampled; None: the policy's own at its only step,
            when it still has those weights.
        ref_logps: (B, T) log pi_ref; None where no reference is used in the loss.
        counts: totals of the whole optimizer step, over all micro-batches and ranks.
        is_fresh: the policy still has the weights that sampled these rollouts, up to ``rollout.async_steps``.
    """

    advantages: Tensor
    engine_logps: Tensor
    old_logps: Tensor | None
    ref_logps: Tensor | None
    counts: StepCounts
    is_fresh: bool = True

    def as_stale(self) -> Experience:
        """The same rollouts once the policy has moved."""
        return replace(self, is_fresh=False)


def sequences_of(groups: Sequence[Group], pad_id: int) -> tuple[Sequences, Tensor]:
    """The B completions of all groups, and the engine's (B, T) log-probabilities."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    sequences = stack([(rollout.prompt_ids, rollout.completion_ids) for rollout in rollouts], pad_id)
    return sequences, padded([rollout.logps for rollout in rollouts], 0.0)


def total_rewards(groups: Sequence[Group]) -> Tensor:
    """(P, G) rewards; NaN where a completion could not be scored."""
    return torch.tensor([group.total for group in groups])


def weighted_terms(groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """(K, P, G) values of the weighted reward terms, and their (K,) weights."""
    weights = {name: weight for name, weight in groups[0].scores.weights.items() if weight is not None}
    values = [[group.scores.terms[name] for group in groups] for name in weights]
    return torch.tensor(values), torch.tensor(list(weights.values()))


def select_trainable(
    experience: Experience,
    rewards: Tensor,
    is_masked: Sequence[bool],
    zero_variance: ZeroVariance,
    global_sum: Callable[[int], int],
) -> Experience:
    """The completions of a minibatch that go through the model, with the totals that its means are taken over.

    Args:
        rewards: (P, G), before any KL penalty.
        is_masked: B flags of completions that are not learned from, for example truncated ones.
        global_sum: sum of a count over all ranks; every rank calls it the same number of times.
    """
    signal = has_signal(rewards).expand_as(rewards).flatten().tolist()
    drops = zero_variance in ("drop", "resample")
    is_counted = [has or not drops for has in signal]
    active = [b for b, has in enumerate(signal) if (has or zero_variance == "keep") and not is_masked[b]]
    # Masked before the counts, as in TRL: a mean over tokens is then over the tokens that are learned from. In a mean
    # over sequences a masked completion still counts as one.
    tokens = [0 if masked else length for length, masked in zip(experience.lengths, is_masked, strict=True)]
    device_tokens = sum(n for n, counted in zip(tokens, is_counted, strict=True) if counted)
    # These totals are the normalisers of every micro-batch on every rank: the gradient then depends neither on
    # micro_batch_size nor on the number of ranks.
    counts = replace(
        experience.counts,
        num_tokens=global_sum(device_tokens),
        num_sequences=global_sum(sum(is_counted)),
        device_tokens=device_tokens,
        active_tokens=global_sum(sum(tokens[b] for b in active)),
    )
    return replace(select(experience, active), counts=counts)


def share_normalisers(minibatches: Sequence[Experience]) -> list[Experience]:
    """The minibatches of a rollout batch, each normalised by the mean of their counts (TRL's steps_per_generation).

    A token then weighs the same in whichever minibatch it is, and the mean of the minibatches' gradients, at equal
    weights, is the gradient of the whole rollout batch.
    """
    num_tokens, num_sequences = (
        sum(getattr(minibatch.counts, name) for minibatch in minibatches) / len(minibatches)
        for name in ("num_tokens", "num_sequences")
    )
    return [
        replace(minibatch, counts=replace(minibatch.counts, num_tokens=num_tokens, num_sequences=num_sequences))
        for minibatch in minibatches
    ]


def per_token_tensors(experience: Experience) -> dict[str, Tensor]:
    names = ("engine_logps", "old_logps", "ref_logps")
    return {name: value for name in names if (value := getattr(experience, name)) is not None}


def select(experience: Experience, rows: Sequence[int]) -> Experience:
    """The completions with these indices, trimmed to the longest of them."""
    selected = experience.rows(rows)
    width = selected["completion_ids"].shape[1]
    for name, value in per_token_tensors(experience).items():
        selected[name] = value[list(rows), :width]
    return replace(experience, **selected, advantages=experience.advantages[list(rows)])


def split(experience: Experience, num_parts: int) -> list[Experience]:
    """``num_parts`` micro-batches of sizes that differ by one at most: with fewer rows than parts, some are empty."""
    size = len(experience)
    bounds = [part * size // num_parts for part in range(num_parts + 1)]
    return [select(experience, range(start, end)) for start, end in pairwise(bounds)]


def to_state(experience: Experience) -> dict[str, Any]:
    """Plain containers and tensors, for a checkpoint."""
    return {f.name: getattr(experience, f.name) for f in fields(experience)} | {"counts": asdict(experience.counts)}


def from_state(state: dict[str, Any]) -> Experience:
    return Experience(**state | {"counts": StepCounts(**state["counts"])})


def concat(parts: Sequence[Experience]) -> Experience:
    """The experience of several ranks as one; the counts of the step are the same in all."""
    tensors: dict[str, Any] = {"advantages": torch.cat([part.advantages for part in parts])}
    for name in ("prompt_ids", "completion_ids", *per_token_tensors(parts[0])):
        width = max(getattr(part, name).shape[1] for part in parts)
        rows = [pad(getattr(part, name), (0, width - getattr(part, name).shape[1])) for part in parts]
        tensors[name] = torch.cat(rows)
    starts = [0, *accumulate(len(part.prompt_lengths) for part in parts)]
    return replace(
        parts[0],
        **tensors,
        prompt_lengths=[n for part in parts for n in part.prompt_lengths],
        prompt_index=[start + i for part, start in zip(parts, starts, strict=False) for i in part.prompt_index],
        lengths=[n for part in parts for n in part.lengths],
    )
