"""One rollout batch: sample groups, score them, settle those without signal, assign credit, count.

What ``zero_variance`` does with a group whose rewards are all equal (its advantages are zero whatever is chosen):

=========  ========================  ==================================  =====================================
option     goes through the model    counts in the loss's denominator    its tokens feel the KL and entropy terms
=========  ========================  ==================================  =====================================
keep       yes                       yes                                 yes
mask       no                        yes                                 no
drop       no                        no: the other groups weigh more     no
resample   another prompt is drawn in its place (DAPO's dynamic sampling), at most ``max_resamples`` times; what
           is still without signal then is dropped
=========  ========================  ==================================  =====================================
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from r1.core.seeds import batch_indices, derive_seed
from r1.model.sequences import padded, stack
from r1.stage.advantage.base import compute_advantages, group_std, has_signal
from r1.stage.loss.base import StepCounts
from r1.stage.rl.experience import Experience, Group, select, terms, totals
from r1.stage.validation.readability import readability_of, train_metrics

if TYPE_CHECKING:
    from r1.data.base import Row
    from r1.stage.grpo import Grpo

T = TypeVar("T")
ZeroVariance = Literal["keep", "mask", "drop", "resample"]


class Collector:
    """Makes the rollout batches of a ``Grpo`` stage."""

    def __init__(self, stage: Grpo, zero_variance: ZeroVariance, max_resamples: int, mask_truncated: bool) -> None:
        self.stage, self.mask_truncated = stage, mask_truncated
        self.zero_variance, self.max_resamples = zero_variance, max_resamples
        self.num_tokens = 0

    def collect(self, step: int) -> Experience:
        """The rollout batch number ``step``, on this device."""
        if not self.stage.ahead:
            self.stage.update_engine()
        groups = self.groups(step, self.stage.step_indices(step), attempt=0)
        self.stage.note(metrics(self.gather_flat(group_summaries(groups)), groups[0].scores.weights))
        if self.zero_variance == "resample":
            groups = self.resampled(step, groups)
        experience, rewards = self.experience(groups)
        if self.stage.record:
            first = groups[0]  # one whole group per rollout batch
            self.stage.record.add_rollouts(
                step * self.stage.num_iterations,
                [first.row] * len(first.texts),
                first.texts,
                first.scores,
                experience.advantages,
            )
        return self.select_trainable(experience, rewards, groups)

    def gather_flat(self, values: list[T]) -> list[T]:
        """One value of each group, of all devices, in the order of the step's examples."""
        return [value for part in self.stage.gather(values) for value in part]

    def groups(self, step: int, indices: Sequence[int], attempt: int) -> list[Group]:
        """Sample and score ``group_size`` completions for each of these training examples."""
        stage, started = self.stage, time.monotonic()
        rows, seeds = self.asked(step, indices, attempt)
        rollouts = stage.ahead.take(step) if stage.ahead else stage.sample(rows, seeds)
        self.num_tokens += sum(len(r.completion_ids) for group in rollouts for r in group)
        sampled = time.monotonic()
        texts, scores = stage.score(
            [row for row in rows for _ in range(stage.group_size)], [r for group in rollouts for r in group]
        )
        stage.log_sum({"time/rollout": sampled - started, "time/score": time.monotonic() - sampled})
        stage.log_sum(dict(stage.pop_scorer_counts()))
        cuts = [range(p * stage.group_size, (p + 1) * stage.group_size) for p in range(len(rows))]
        return [
            Group(row, group, [texts[b] for b in cut], scores.part(cut))
            for row, group, cut in zip(rows, rollouts, cuts, strict=True)
        ]

    def asked(self, step: int, indices: Sequence[int], attempt: int = 0) -> tuple[list[Row], list[list[int]]]:
        """The questions, and the seeds of the completions of each."""
        stage = self.stage
        purpose: list[str | int] = ["rollout", step] if attempt == 0 else ["resample", attempt, step]
        seeds = [[derive_seed(stage.seed, *purpose, i, g) for g in range(stage.group_size)] for i in indices]
        return [stage.data.train[i] for i in indices], seeds

    def pop_tokens(self) -> int:
        """Completion tokens sampled on this device since the last call."""
        count, self.num_tokens = self.num_tokens, 0
        return count

    def resampled(self, step: int, groups: list[Group]) -> list[Group]:
        """Put fresh prompts in the places of groups without signal.

        The prompts of attempt a are a permutation keyed by a, handed to the empty places in the order of the whole
        batch, so that the outcome does not depend on the number of devices.
        """
        stage, groups = self.stage, list(groups)
        for attempt in range(1, self.max_resamples + 1):
            empty = self.gather_flat((~has_signal(totals(groups)).flatten()).tolist())
            if not any(empty):
                break
            places = [place for place, flag in enumerate(empty) if flag]
            num_examples = len(stage.data.train)
            indices = batch_indices(derive_seed(stage.seed, "resample", attempt), step, len(empty), num_examples)
            first = stage.trainer.global_rank * len(groups)
            mine = {p - first: i for p, i in zip(places, indices, strict=False) if 0 <= p - first < len(groups)}
            fresh = self.groups(step, list(mine.values()), attempt) if mine else []
            for place, group in zip(mine, fresh, strict=True):
                groups[place] = group
            stage.note({"train/resampled": len(places) / len(empty)})
        return groups

    def experience(self, groups: Sequence[Group]) -> tuple[Experience, Tensor]:
        """All completions with their advantages, nothing left out yet; and the (P, G) rewards before any KL."""
        stage = self.stage
        rollouts = [r for group in groups for r in group.rollouts]
        batch = stack([(r.prompt_ids, r.completion_ids) for r in rollouts], stage.tokenizer.pad_token_id)
        engine_logps = padded([r.logps for r in rollouts], 0.0)
        rewards, (values, weights) = totals(groups), terms(groups)
        total = rewards
        if stage.reference and stage.kl_in == "reward":
            gap = stage.kl(engine_logps, stage.logps_under(stage.reference.model, batch))
            penalty = -(gap * batch.mask).sum(1).view_as(rewards)
            mean = penalty.mean() / stage.plan.num_devices
            stage.log_sum({"reward/kl": mean, "reward/kl_weighted": stage.kl_coef * mean})
            total = rewards + stage.kl_coef * penalty
            values = torch.cat([values, penalty[None]])
            weights = torch.cat([weights, torch.tensor([stage.kl_coef])])
        advantages = self.advantages(total, values, weights).flatten()
        counts = StepCounts(0, 0, stage.engine.max_completion_length, 0, stage.plan.num_devices, 0)
        exact = engine_logps if stage.engine_is_exact else None
        return Experience(**vars(batch), advantages=advantages, engine_logps=engine_logps, old_logps=exact,
                          ref_logps=None, counts=counts), rewards  # fmt: skip

    def advantages(self, total: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        """(P, G) advantages of this device's groups, found among all groups of the step.

        Args:
            total: (P, G) rewards.
            values: (K, P, G) of the reward terms.
            weights: (K,).
        """
        found = self.stage.gather({"total": total, "values": values})
        totals, terms = (torch.cat([part[name] for part in found], dim=-2) for name in ("total", "values"))
        return compute_advantages(self.stage.advantage, totals, terms, weights).chunk(len(found))[
            self.stage.trainer.global_rank
        ]

    def select_trainable(self, experience: Experience, rewards: Tensor, groups: Sequence[Group]) -> Experience:
        """Leave out what is not learned from, count what the step's means are taken over, ask the reference."""
        stage = self.stage
        signal = has_signal(rewards).expand_as(rewards).flatten().tolist()
        cut_off = [r.truncated and self.mask_truncated for group in groups for r in group.rollouts]
        gone = self.zero_variance in ("drop", "resample")
        counted = [has or not gone for has in signal]
        active = [b for b, has in enumerate(signal) if (has or self.zero_variance == "keep") and not cut_off[b]]
        tokens = [n * (not cut) for n, cut in zip(experience.lengths, cut_off, strict=True)]
        device_tokens = sum(n for n, counts in zip(tokens, counted, strict=True) if counts)
        counts = replace(
            experience.counts,
            num_tokens=stage.global_sum(device_tokens),
            num_sequences=stage.global_sum(sum(counted)),
            device_tokens=device_tokens,
            active_tokens=stage.global_sum(sum(tokens[b] for b in active)),
        )
        left = replace(select(experience, active), counts=counts)
        if not active:
            return left
        if not stage.engine_is_exact and stage.num_iterations > 1:
            left = replace(left, old_logps=stage.logps_under(stage.policy, left))
        if stage.reference and (stage.kl_in == "loss" or stage.max_kl is not None):
            left = replace(left, ref_logps=stage.logps_under(stage.reference.model, left))
        return left


def group_summaries(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What the metrics look at, for each group a list over its completions."""
    return [
        {
            "rewards": group.total,
            "terms": group.scores.terms,
            "lengths": [len(r.completion_ids) for r in group.rollouts],
            "truncated": [r.truncated for r in group.rollouts],
            "looks": list(map(readability_of, group.texts)),
        }
        for group in groups
    ]


def metrics(groups: Sequence[dict[str, Any]], weights: dict[str, float | None]) -> dict[str, Tensor | float]:
    """What the rollouts are like, before any is left out or drawn again; from the summaries of all groups."""
    rewards = torch.tensor([group["rewards"] for group in groups])
    lengths, truncated, looks = ([v for g in groups for v in g[name]] for name in ("lengths", "truncated", "looks"))
    found: dict[str, Tensor | float] = {
        "train/reward": rewards.nanmean(),
        "train/reward_std": group_std(rewards).mean(),
        "train/frac_zero_std": (~has_signal(rewards)).float().mean(),
        "train/completion_length": sum(lengths) / len(lengths),
        "train/truncated": sum(truncated) / len(truncated),
    }
    found |= train_metrics(looks)
    for name, weight in weights.items():
        mean = torch.tensor([group["terms"][name] for group in groups]).nanmean()
        found |= {f"reward/{name}": mean, f"reward/{name}_weighted": mean * (weight or 0.0)}
    return {name: value for name, value in found.items() if not math.isnan(value)}  # what no row has a reward for
