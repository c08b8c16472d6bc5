"""What the reward terms share that ask a model: every text is scored once, and what cannot be scored is counted.

A count is a function of the completions that were scored, never of what the cache held: a run that was stopped and goes
on counts what it would have counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

from r1.data.completion import text_after_thinking

CACHED = 65_536  # scores
Pair = tuple[str, str]  # prompt, text
Outcome = float | str  # a score, or the reason why there is none


class Scorer:
    """Remembers scores by content and counts reasons.

    Args:
        thinking: show the thinking, too; false: only what follows it (DeepSeek-R1 2.3.4, helpfulness).
    """

    reasons: tuple[str, ...] = ()  # why a text may have no score
    transient_errors: tuple[str, ...] = ()  # those that may not be so the next time

    def __init__(self, thinking: bool) -> None:
        self.thinking = thinking
        self._known: dict[Pair, Outcome] = {}
        self._counts: Counter[str] = Counter()

    def score_cached(
        self, prompts: Sequence[str], completions: Sequence[str], score: Callable[[list[Pair]], list[Outcome]]
    ) -> list[float | None]:
        """(B,) scores, None where there is none; ``score`` is asked for the pairs that are not known, each once."""
        pairs = [(prompt, self.shown(text)) for prompt, text in zip(prompts, completions, strict=True)]
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        found = {pair: self._known[pair] for pair in pairs if pair in self._known}
        found |= dict(zip(fresh, score(fresh), strict=True)) if fresh else {}
        self._known |= {pair: outcome for pair, outcome in found.items() if outcome not in self.transient_errors}
        for old in list(islice(self._known, max(0, len(self._known) - CACHED))):
            del self._known[old]
        outcomes = [found[pair] for pair in pairs]
        self._counts.update(outcome for outcome in outcomes if isinstance(outcome, str))
        return [None if isinstance(outcome, str) else outcome for outcome in outcomes]

    def check(self) -> None:
        """Find out what is wrong before anything heavy is loaded; raises UserError."""

    def shown(self, completion: str) -> str:
        """The part of a completion that is scored."""
        return completion if self.thinking else text_after_thinking(completion)

    def pop_error_counts(self) -> dict[str, int]:
        """How many completions since the last call had no score, by reason."""
        counts = {reason: self._counts[reason] for reason in self.reasons}
        self._counts.clear()
        return counts
