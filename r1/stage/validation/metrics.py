"""Evaluation: pass@1, unbiased pass@k, maj@k, each with a 95 % interval and its sample count.

The same code serves validation inside every stage and ``stage=eval``. Per-prompt scores are lists over prompts (P),
each computed from n samples; the prompt, not the sample, is the unit of the interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

from annotated_types import Ge

from r1.core.batch import chunks
from r1.core.statistics import Estimate, mean, proportion
from r1.data.base import Verifier
from r1.data.completion import parse
from r1.rollout.base import Sampling, SamplingChanges


@dataclass(frozen=True)
class SampledAnswer:
    """One sampled completion.

    Attributes:
        completion: text, prefill included.
        length: tokens.
        correct: None if the question has no gold answer.
    """

    completion: str
    length: int
    truncated: bool
    correct: bool | None


@dataclass(frozen=True)
class Sample(SampledAnswer):
    """One of validation.

    Attributes:
        vote: equal where completions of a prompt state the same answer; None without one.
        lenient: whether it is right by ``correct`` or by ``data.reader``; None: that is strict, or no gold answer.
    """

    vote: str | None
    lenient: bool | None = None


class ValSampling:
    """The knobs of the rollout that validation sets otherwise; null: as they are."""

    def __init__(self, **changes: Unpack[SamplingChanges]) -> None:
        self.changes: Any = {name: value for name, value in changes.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Validation:
    """When and how much to validate (config node ``val``).

    Args:
        at_start: validate before training.
        every: optimizer steps between validations; the end is always validated.
        num_prompts: P, held-out prompts, the first of the split; all of a smaller one.
        num_samples: n, completions per prompt.
        ks: the k of pass@k and maj@k, each <= n.
        by: columns; the prompts with each value of one are measured on their own, too.
        greedy: sample one more completion of each prompt at temperature 0.
        verifier: decides whether an answer is right; None: the dataset's, as in the reward.
        sampling: how completions are sampled; null: as those of the rollout.
    """

    at_start: bool
    every: Annotated[int, Ge(1)]
    num_prompts: Annotated[int, Ge(1)]
    num_samples: Annotated[int, Ge(1)]
    ks: list[int]
    by: list[str]
    greedy: bool
    verifier: Verifier | None
    sampling: ValSampling | None

    def sampling_like(self, rollout: Sampling) -> Sampling:
        """The rollout's knobs with the changes of validation."""
        return {**rollout, **self.sampling.changes} if self.sampling else rollout


def pass_at_k(num_correct: int, num_samples: int, k: int) -> float:
    """Probability that at least one of k samples is right, unbiased (Chen et al. 2021, eq. 1)."""
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def maj_at_k(votes: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Probability that the majority answer of k samples is right, averaged over consecutive blocks of k.

    Samples without an answer do not vote; a tie is broken at random, so it earns its expected value.
    """
    blocks = [slice(i, i + k) for i in range(0, len(votes) - k + 1, k)]
    return sum(_majority_score(votes[b], correct[b]) for b in blocks) / len(blocks)


def _majority_score(votes: Sequence[str | None], correct: Sequence[bool]) -> float:
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    top = max(counts.values())
    winners = [vote for vote, count in counts.items() if count == top]
    right = {vote for vote, ok in zip(votes, correct, strict=True) if ok}
    return sum(vote in right for vote in winners) / len(winners)


def sample_metrics(
    groups: Sequence[Sequence[Sample]], ks: Sequence[int], greedy: Sequence[SampledAnswer] = ()
) -> dict[str, Estimate]:
    """``val/pass@1``, ``val/pass@k``, ``val/maj@k``, length and format of P prompts with n samples each.

    ``val/greedy`` if there are P greedy completions. Correctness is measured over the prompts with a gold answer;
    without any, its metrics are left out.
    """
    n = len(groups[0])
    greedy_correct = [answer.correct for answer in greedy if answer.correct is not None]
    metrics = correctness_metrics([group for group in groups if group[0].correct is not None], ks, greedy_correct)
    metrics["val/completion_length"] = mean([sum(s.length for s in group) / n for group in groups], n, lowest=0.0)
    metrics["val/truncated"] = proportion([sum(s.truncated for s in group) / n for group in groups], n)
    metrics["val/format"] = proportion([sum(parse(s.completion).strict for s in group) / n for group in groups], n)
    return metrics


def correctness_metrics(
    groups: Sequence[Sequence[Sample]], ks: Sequence[int], greedy: Sequence[bool]
) -> dict[str, Estimate]:
    if not groups:
        return {}
    n = len(groups[0])
    counts = [sum(bool(s.correct) for s in group) for group in groups]
    metrics = {"val/pass@1": proportion([c / n for c in counts], n)}
    if greedy:
        metrics["val/greedy"] = proportion(list(map(float, greedy)), 1)
    if lenient := [group for group in groups if group[0].lenient is not None]:
        metrics["val/lenient"] = proportion([sum(bool(s.lenient) for s in group) / n for group in lenient], n)
    for k in sorted(k for k in set(ks) if k > 1):
        metrics[f"val/pass@{k}"] = proportion([pass_at_k(c, n, k) for c in counts], n)
        metrics[f"val/maj@{k}"] = proportion([_group_maj_at_k(group, k) for group in groups], n)
    return metrics


def reward_estimate(values: Sequence[float], num_samples: int) -> Estimate | None:
    """Mean over prompts of P * n rewards; NaN (the term does not apply) is left out. None: all are NaN."""
    known = [[value for value in group if not math.isnan(value)] for group in chunks(values, num_samples)]
    means = [sum(group) / len(group) for group in known if group]
    return mean(means, num_samples) if means else None


def _group_maj_at_k(group: Sequence[Sample], k: int) -> float:
    return maj_at_k([s.vote for s in group], [bool(s.correct) for s in group], k)
