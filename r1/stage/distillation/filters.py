"""Which answers are kept: named filters, each a reward term and the bounds that its value must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from r1.data.base import Row, Verifier
from r1.reward.base import RewardFunction, Rewards, Term


@dataclass(frozen=True)
class Filter:
    """Accepts ``min <= value <= max``; None bounds nothing, and a term that gave no value does not apply."""

    name: str
    function: RewardFunction
    min: float | None
    max: float | None

    def accepts(self, value: float) -> bool:
        """``value`` is NaN where the term does not apply."""
        return not ((self.min is not None and value < self.min) or (self.max is not None and value > self.max))


class Filters:
    """The filters of a stage, in the order in which they look at an answer: one sees what the others have left."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        self.filters = filters
        self.names = [one.name for one in filters]

    def rejected_by(
        self,
        rows: list[Row],
        completions: list[str],
        completion_ids: list[list[int]],
        truncated: list[bool],
        verifier: Verifier,
        max_completion_length: int,
    ) -> list[str | None]:
        """The first filter that rejects each of B completions, by its name; None: the completion is kept.

        Raises:
            UserError: a term lacks a column, raises, or does not return numbers or Nones.
        """
        found: list[str | None] = [None] * len(rows)
        for one in self.filters:
            left = [b for b, name in enumerate(found) if name is None]
            if not left:
                break
            term = Rewards({one.name: Term(one.name, one.function, None)}, "stage.filters")
            scores = term.score(
                prompts=[rows[b]["prompt"] for b in left],
                completions=[completions[b] for b in left],
                rows=[{key: value for key, value in rows[b].items() if key != "terms"} for b in left],  # rewards' alone
                verifier=verifier,
                completion_ids=[completion_ids[b] for b in left],
                max_completion_length=max_completion_length,
                truncated=[truncated[b] for b in left],
            )
            for b, value in zip(left, scores.terms[one.name], strict=True):
                found[b] = None if one.accepts(value) else one.name
        return found
