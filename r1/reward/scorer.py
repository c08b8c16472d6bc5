"""Base of the reward terms that call a model: each text is scored once, and texts without a score are counted.

A count depends on the completions that were scored and not on the state of the cache: a run that was stopped and
resumes counts as if it had not been stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

from r1.data.completion import text_after_thinking

CACHE_SIZE = 65_536  # scores
Pair = tuple[str, str]  # prompt, text
Outcome = float | str  # a score, or the reason why a text has no score


class Scorer:
    """Remembers scores by content and counts reasons.

    Args:
        thinking: score the thinking, too; false: only the text after it (DeepSeek-R1 2.3.4, helpfulness).
    """

    reasons: tuple[str, ...] = ()  # why a text may have no score
    transient_errors: tuple[str, ...] = ()  # reasons that are not cached: the next call may succeed

    def __init__(self, thinking: bool) -> None:
        self.thinking = thinking
        self._cache: dict[Pair, Outcome] = {}
        self._counts: Counter[str] = Counter()

    def score_cached(
        self, prompts: Sequence[str], completions: Sequence[str], score: Callable[[list[Pair]], list[Outcome]]
    ) -> list[float | None]:
        """(B,) scores, None where a text has none; ``score`` is called once for each pair that is not cached."""
        pairs = [(prompt, self.scored_text(text)) for prompt, text in zip(prompts, completions, strict=True)]
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._cache]
        outcome_of = {pair: self._cache[pair] for pair in pairs if pair in self._cache}
        outcome_of |= dict(zip(fresh, score(fresh), strict=True)) if fresh else {}
        self._cache |= {pair: outcome for pair, outcome in outcome_of.items() if outcome not in self.transient_errors}
        for oldest in list(islice(self._cache, max(0, len(self._cache) - CACHE_SIZE))):
            del self._cache[oldest]
        outcomes = [outcome_of[pair] for pair in pairs]
        self._counts.update(outcome for outcome in outcomes if isinstance(outcome, str))
        return [None if isinstance(outcome, str) else outcome for outcome in outcomes]

    def check(self) -> None:
        """Raises: UserError: the term cannot work; called before any model is loaded."""

    def scored_text(self, completion: str) -> str:
        """The part of a completion that is scored."""
        return completion if self.thinking else text_after_thinking(completion)

    def pop_error_counts(self) -> dict[str, int]:
        """How many completions since the last call had no score, by reason."""
        counts = {reason: self._counts[reason] for reason in self.reasons}
        self._counts.clear()
        return counts
