"""Filters of answers: each is a reward term and the bounds between which its value must lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from r1.data.base import Row, Verifier
from r1.data.conversation import question_text
from r1.reward.base import RewardFunction, Rewards, Term


@dataclass(frozen=True)
class Filter:
    """Accepts ``min <= value <= max``; a bound of None does not limit."""

    name: str
    function: RewardFunction
    min: float | None
    max: float | None

    def accepts(self, value: float) -> bool:
        """``value`` is NaN where the term does not apply: neither comparison holds, so it is accepted."""
        return not ((self.min is not None and value < self.min) or (self.max is not None and value > self.max))


class Filters:
    """The filters of a stage in order; each is applied to the answers that the earlier ones have accepted."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        self.filters = filters
        self.names = [filter_.name for filter_ in filters]

    def rejected_by(
        self,
        rows: list[Row],
        completions: list[str],
        completion_ids: list[list[int]],
        truncated: list[bool],
        verifier: Verifier,
        max_completion_length: int,
    ) -> list[str | None]:
        """For each of B completions the name of the first filter that rejects it; None: accepted.

        Raises:
            UserError: a term lacks a column, raises, or does not return numbers or Nones.
        """
        rejected_by: list[str | None] = [None] * len(rows)
        for filter_ in self.filters:
            remaining = [b for b, name in enumerate(rejected_by) if name is None]
            if not remaining:
                break
            term = Rewards({filter_.name: Term(filter_.name, filter_.function, None)}, "stage.filters")
            scores = term.score(
                prompts=[question_text(rows[b]["prompt"]) for b in remaining],
                completions=[completions[b] for b in remaining],
                # A row's column ``terms`` selects reward terms; filters apply to every row.
                rows=[{key: value for key, value in rows[b].items() if key != "terms"} for b in remaining],
                verifier=verifier,
                completion_ids=[completion_ids[b] for b in remaining],
                max_completion_length=max_completion_length,
                truncated=[truncated[b] for b in remaining],
            )
            for b, value in zip(remaining, scores.terms[filter_.name], strict=True):
                rejected_by[b] = None if filter_.accepts(value) else filter_.name
        return rejected_by

    def outcome_counts(self, truncated: Sequence[bool], rejected_by: Sequence[str | None]) -> dict[str, int]:
        """Number of answers, of complete ones, and of those that each filter has rejected."""
        rejected = Counter(rejected_by)
        return {
            "generated": len(rejected_by),
            "finished": truncated.count(False),
            **{f"rejected/{name}": rejected[name] for name in self.names},
        }
