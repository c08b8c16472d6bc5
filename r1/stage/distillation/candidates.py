"""The sampled answers of a question: which of them are kept, and how hard they show the question to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from r1.core import statistics
from r1.core.statistics import Estimate
from r1.data.base import Row, has_answer
from r1.stage.validation.metrics import Sample

Select = Literal["all", "best"]


@dataclass(frozen=True)
class Candidate(Sample):
    """An answer with its reward (None where no term applies) and the filter that rejects it (None: accepted)."""

    reward: float | None
    rejected_by: str | None


def selected(group: Sequence[Candidate], select: Select, limit: int | None) -> list[Candidate]:
    """The accepted answers of one question that are kept, in the order in which they were sampled.

    Args:
        select: ``all``, or the ``best`` alone: the one with the highest reward, of equals the first.
        limit: at most so many, the first ones; None: no limit.
    """
    accepted = [candidate for candidate in group if candidate.rejected_by is None]
    if select == "best" and accepted:
        return [max(accepted, key=lambda candidate: (candidate.reward is not None, candidate.reward or 0.0))]
    return accepted[:limit]


def tally(groups: Sequence[Sequence[Candidate]], filters: Sequence[str]) -> dict[str, int]:
    """How many answers were asked for, came to an end, were rejected by each of the filters, and were accepted."""
    answers = [candidate for group in groups for candidate in group]
    rejected = Counter(answer.rejected_by for answer in answers)
    return {
        "asked": len(answers),
        "finished": sum(not answer.truncated for answer in answers),
        **{f"rejected/{name}": rejected[name] for name in filters},
        "accepted": rejected[None],
    }


def pass_rate(row: Row, group: Sequence[Candidate]) -> float | None:
    """Share of right answers to a question; None where no gold answer is known."""
    return sum(candidate.correct is True for candidate in group) / len(group) if has_answer(row) else None


def difficulty(rates: Sequence[float | None], num_samples: int) -> dict[str, Estimate]:
    """Mean pass rate, and the share of questions without a right answer, over those with a gold answer."""
    known = [rate for rate in rates if rate is not None]
    if not known:
        return {}
    unsolved = [float(rate == 0) for rate in known]
    return {
        "rejection/pass_rate": statistics.proportion(known, num_samples),
        "rejection/frac_unsolved": statistics.proportion(unsolved, 1),
    }
