"""What GRPO learns from: scored groups, and the rollout batch made of them; no model, no config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from r1.model.sequences import Sequences
from r1.stage.loss.base import StepCounts

if TYPE_CHECKING:
    from r1.data.base import Row
    from r1.reward.base import Scores
    from r1.rollout.base import Rollout


@dataclass(frozen=True)
class Group:
    """One prompt's G completions, as text and with their reward terms."""

    row: Row
    rollouts: list[Rollout]
    texts: list[str]
    scores: Scores

    @property
    def total(self) -> list[float]:
        return self.scores.total


@dataclass(frozen=True)
class Experience(Sequences):
    """A rollout batch, or a micro-batch of it: the B completions that are learned from.

    Attributes:
        advantages: (B,) A_i.
        engine_logps: (B, T) log-probabilities as they were sampled, 0 behind a completion's end.
        old_logps: (B, T) log pi_old in the trainer's precision; None: the policy's own at its only pass.
        ref_logps: (B, T) log pi_ref; None where no reference is used in the loss.
        counts: totals of the whole optimizer step, over all micro-batches and devices.
        fresh: no optimizer step has been made on these rollouts yet.
    """

    advantages: Tensor
    engine_logps: Tensor
    old_logps: Tensor | None
    ref_logps: Tensor | None
    counts: StepCounts
    is_first_pass: bool = True

    def as_stale(self) -> Experience:
        """The same for a further pass."""
        return replace(self, is_first_pass=False)


def per_token_tensors(experience: Experience) -> dict[str, Tensor]:
    names = ("engine_logps", "old_logps", "ref_logps")
    return {name: value for name in names if (value := getattr(experience, name)) is not None}


def select(experience: Experience, rows: Sequence[int]) -> Experience:
    """These completions alone, trimmed to the longest of them."""
    kept = experience.rows(rows)
    width = kept["completion_ids"].shape[1]
    for name, value in per_token_tensors(experience).items():
        kept[name] = value[list(rows), :width]
    return replace(experience, **kept, advantages=experience.advantages[list(rows)])


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
    """The experience of several devices as one; the counts of the step are the same in all."""
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


def totals(groups: Sequence[Group]) -> Tensor:
    """(P, G) rewards; NaN where a completion could not be scored."""
    return torch.tensor([group.total for group in groups])


def terms(groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """(K, P, G) values of the weighted reward terms, and their (K,) weights."""
    weights = {name: weight for name, weight in groups[0].scores.weights.items() if weight is not None}
    values = [[group.scores.terms[name] for group in groups] for name in weights]
    return torch.tensor(values), torch.tensor(list(weights.values()))
