"""The answers that the policy samples to one question: selection of training rows, and the question's difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from r1.core import statistics
from r1.core.statistics import Estimate
from r1.data.base import Row, has_answer
from r1.stage.distillation.filters import Filters
from r1.stage.validation.metrics import SampledAnswer

Select = Literal["all", "best"]


@dataclass(frozen=True)
class Candidate(SampledAnswer):
    """An answer with its reward (None where no term applies) and the filter that rejects it (None: accepted)."""

    reward: float | None
    rejected_by: str | None


def select_candidates(group: Sequence[Candidate], select: Select, limit: int | None) -> list[Candidate]:
    """The accepted answers to one question that become training rows, in the order in which they were sampled.

    Args:
        select: ``all``, or ``best``: the one with the highest reward, of equals the first.
        limit: maximum number, the first ones; None: no limit.
    """
    accepted = [candidate for candidate in group if candidate.rejected_by is None]
    if select == "best" and accepted:
        return [max(accepted, key=lambda candidate: (candidate.reward is not None, candidate.reward or 0.0))]
    return accepted[:limit]


def outcome_counts(groups: Sequence[Sequence[Candidate]], filters: Filters) -> dict[str, int]:
    """Number of all answers, complete ones, those rejected by each filter, and accepted ones."""
    answers = [answer for group in groups for answer in group]
    rejected_by = [answer.rejected_by for answer in answers]
    counts = filters.outcome_counts([answer.truncated for answer in answers], rejected_by)
    return counts | {"accepted": rejected_by.count(None)}


def pass_rate(row: Row, group: Sequence[Candidate]) -> float | None:
    """Share of right answers to a question; None without a gold answer."""
    return sum(candidate.correct is True for candidate in group) / len(group) if has_answer(row) else None


def difficulty_metrics(pass_rates: Sequence[float | None], num_samples: int) -> dict[str, Estimate]:
    """Mean pass rate, and share of questions without a right answer, over the questions with a gold answer."""
    known = [rate for rate in pass_rates if rate is not None]
    if not known:
        return {}
    unsolved = [float(rate == 0) for rate in known]
    return {
        "rejection/pass_rate": statistics.proportion(known, num_samples),
        "rejection/frac_unsolved": statistics.proportion(unsolved, 1),
    }
