"""Groups of completions for the prompts of a rollout batch: sampled, scored, resampled where they have no signal."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from r1.core.seeds import batch_indices, derive_seed
from r1.stage.advantage.base import group_std, has_signal
from r1.stage.rl.async_rollouts import AsyncRollouts, PromptsAndSeeds
from r1.stage.rl.experience import Group, total_rewards
from r1.stage.runtime.policy_sampler import PolicySampler
from r1.stage.training.step_metrics import StepMetrics
from r1.stage.validation.readability import readability_of, train_readability

T = TypeVar("T")


class PromptKey(NamedTuple):
    """Training example ``example``, one of the P of minibatch ``minibatch``, counted over the run."""

    minibatch: int
    example: int


class GroupSampler:
    """Samples and scores ``group_size`` completions of each prompt, on this rank.

    Args:
        step_metrics: receives durations and scoring errors.
        max_resamples: times that a group without signal is replaced at most.
    """

    def __init__(
        self, sampler: PolicySampler, step_metrics: StepMetrics, seed: int, group_size: int, max_resamples: int
    ) -> None:
        self.sampler, self.run, self.data = sampler, sampler.run, sampler.data
        self.step_metrics, self.seed = step_metrics, seed
        self.group_size, self.max_resamples = group_size, max_resamples
        self.async_rollouts: AsyncRollouts | None = None
        self._num_tokens = 0

    def sample(self, number: int, keys: Sequence[PromptKey], attempt: int = 0) -> list[Group]:
        """The groups of rollout batch ``number`` for these prompts.

        Args:
            attempt: 0, or the round of resampling; it keys the seeds.
        """
        started = time.monotonic()
        rows, seeds = self.prompts_and_seeds(keys, attempt)
        if self.async_rollouts:
            rollouts = self.async_rollouts.next_batch(number)
            self.step_metrics.add_replicated({"train/weights_lag": float(self.async_rollouts.weights_lag)})
        else:
            rollouts = self.sampler.sample(rows, seeds)
        flat_rollouts = [rollout for group in rollouts for rollout in group]
        self._num_tokens += sum(len(rollout.completion_ids) for rollout in flat_rollouts)
        sampled = time.monotonic()
        texts, scores = self.sampler.score([row for row in rows for _ in range(self.group_size)], flat_rollouts)
        self.step_metrics.add({"time/rollout": sampled - started, "time/score": time.monotonic() - sampled})
        self.step_metrics.add(self.sampler.pop_scoring_errors())
        slices = [range(p * self.group_size, (p + 1) * self.group_size) for p in range(len(rows))]
        return [
            Group(row, group, [texts[b] for b in members], scores.part(members))
            for row, group, members in zip(rows, rollouts, slices, strict=True)
        ]

    def prompts_and_seeds(self, keys: Sequence[PromptKey], attempt: int = 0) -> PromptsAndSeeds:
        """The rows of these training examples, and G seeds for each."""
        purpose: list[str | int] = ["rollout"] if attempt == 0 else ["resample", attempt]
        seeds = [[derive_seed(self.seed, *purpose, *key, g) for g in range(self.group_size)] for key in keys]
        return [self.data.train[key.example] for key in keys], seeds

    def resample(self, number: int, keys: Sequence[PromptKey], groups: Sequence[Group]) -> list[Group]:
        """Replace groups without signal by groups of other prompts (dynamic sampling; DAPO, sec. 3.2).

        The prompts of attempt a are a permutation keyed by a, assigned to a minibatch's empty slots in the order of all
        ranks, so that the result does not depend on the number of ranks.
        """
        groups = list(groups)
        for attempt in range(1, self.max_resamples + 1):
            has_none = (~has_signal(total_rewards(groups)).flatten()).tolist()
            parts = self.run.ranks.gather([(key.minibatch, empty) for key, empty in zip(keys, has_none, strict=True)])
            num_empty = sum(empty for part in parts for _, empty in part)
            if not num_empty:
                break
            own = self._replacements(parts, attempt)
            fresh = self.sample(number, list(own.values()), attempt) if own else []
            for slot, group in zip(own, fresh, strict=True):
                groups[slot] = group
            self.step_metrics.add_replicated({"train/resampled": num_empty / sum(map(len, parts))})
        return groups

    def _replacements(self, parts: Sequence[Sequence[tuple[int, bool]]], attempt: int) -> dict[int, PromptKey]:
        """New prompts for this rank's empty slots; ``parts`` has (minibatch, is empty) of each group of each rank."""
        seed, own = derive_seed(self.seed, "resample", attempt), {}
        for minibatch in dict.fromkeys(minibatch for part in parts for minibatch, _ in part):
            slots = [(r, slot) for r, part in enumerate(parts) for slot, (m, _) in enumerate(part) if m == minibatch]
            indices = iter(batch_indices(seed, minibatch, len(slots), len(self.data.train)))
            for rank, slot in slots:
                if parts[rank][slot][1]:
                    example = next(indices)
                    if rank == self.run.ranks.rank:
                        own[slot] = PromptKey(minibatch, example)
        return own

    def gather_flat(self, values: list[T]) -> list[T]:
        """One value per group, of all ranks, in the order of the step's examples."""
        return [value for part in self.run.ranks.gather(values) for value in part]

    def log_groups(self, groups: Sequence[Group]) -> None:
        """Metrics of the sampled groups of all ranks, before any is dropped or resampled."""
        summaries = self.gather_flat([group_summary(group) for group in groups])
        self.step_metrics.add_replicated(rollout_metrics(summaries, groups[0].scores.weights))

    def pop_num_tokens(self) -> int:
        """Completion tokens sampled on this rank since the last call."""
        count, self._num_tokens = self._num_tokens, 0
        return count


def group_summary(group: Group) -> dict[str, Any]:
    """Inputs of ``rollout_metrics``: plain lists over the group's completions, which ranks can gather."""
    return {
        "rewards": group.total,
        "terms": group.scores.terms,
        "lengths": [len(rollout.completion_ids) for rollout in group.rollouts],
        "truncated": [rollout.truncated for rollout in group.rollouts],
        "readability": list(map(readability_of, group.texts)),
    }


def rollout_metrics(summaries: Sequence[dict[str, Any]], weights: dict[str, float | None]) -> dict[str, Tensor | float]:
    """Rewards, lengths and readability over the groups of all ranks; rewards that no row has are left out."""
    rewards = torch.tensor([summary["rewards"] for summary in summaries])
    lengths, truncated, readability = (
        [value for summary in summaries for value in summary[name]] for name in ("lengths", "truncated", "readability")
    )
    metrics: dict[str, Tensor | float] = {
        "train/reward": rewards.nanmean(),
        "train/reward_std": group_std(rewards).mean(),
        "train/frac_zero_std": (~has_signal(rewards)).float().mean(),
        "train/completion_length": sum(lengths) / len(lengths),
        "train/truncated": sum(truncated) / len(truncated),
    }
    metrics |= train_readability(readability)
    for name, weight in weights.items():
        mean = torch.tensor([summary["terms"][name] for summary in summaries]).nanmean()
        metrics |= {f"reward/{name}": mean, f"reward/{name}_weighted": mean * (weight or 0.0)}
    return {name: value for name, value in metrics.items() if not math.isnan(value)}
