"""The mathematical verifier: ``\\frac{1}{2}``, ``0.5`` and ``2^{-1}`` are the same answer.

Four layers, cheapest first: the exact verifier; plain numbers that are not equal; a static guard against answers that
freeze a computer algebra system; math-verify (Kydlíček, https://github.com/huggingface/math-verify) in separate
processes for the rest. math-verify compares well but reads too much: it takes "17 42" for 59 and "17=42" for 42. So it
gets one extracted answer, and only if that is one expression.

The first three layers depend on the two texts alone. So does the last, but for its time limit, which ordinary answers
stay a hundredfold below: the guard, not the clock, is meant to stop hostile ones.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated

from annotated_types import Gt

from r1.data.base import Row, Verifier
from r1.data.verifier.exact import clean, same, value
from r1.data.verifier.guard import guard
from r1.data.verifier.pool import POOL, Job, Outcome

MAX_CHARS = 4000  # of an answer as it is written; longer ones are not even cleaned
CACHED = 16_384  # pairs of gold and answer
NEAR = 1e-6  # math-verify compares decimals to six places: 0.333333 is 1/3
REASONS: tuple[Outcome, ...] = ("timeouts", "died", "guard")  # why an answer is wrong without a comparison
SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*[0-9]\s*[0-9]")
TWO_NUMBERS = re.compile(r"[0-9.](?:\s|~|\\[,;: ]|\\q?quad(?![a-z]))+[0-9.]")  # 17 42
HEDGE = r"\b(?:or|and|not|but|no|maybe|perhaps|nor)\b"  # math-verify drops remarks: 42 \text{ or not}
REMARK = re.compile(rf"\\(?:text|mathrm|textrm|mbox)\{{[^{{}}]*{HEDGE}[^{{}}]*\}}\s*$")


class Math(Verifier):
    """Whether an answer is mathematically equal to ``row["answer"]``. No answer makes it raise or hang.

    Args:
        seconds: time limit of one comparison, whose process is ended then.
    """

    def __init__(self, *, seconds: Annotated[float, Gt(0)]) -> None:
        self.seconds = seconds
        self._counts: Counter[Outcome] = Counter()
        self._lock = threading.Lock()  # asynchronous rollouts are scored in another thread

    def __call__(self, answer: str, row: Row) -> bool:
        return self.verify_batch([answer], [row])[0]

    def verify_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        """Each of B answers, in parallel in the scoring processes."""
        verdicts = [compare_exact_first(str(row["answer"]), answer) for answer, row in zip(answers, rows, strict=True)]
        jobs = list(dict.fromkeys(verdict for verdict in verdicts if isinstance(verdict, Job)))
        judged = dict(zip(jobs, POOL.judge(jobs, self.seconds), strict=True))
        outcomes = [judged[verdict] if isinstance(verdict, Job) else verdict for verdict in verdicts]
        with self._lock:
            self._counts.update(outcome for outcome in outcomes if outcome in REASONS)
        return [outcome == "right" for outcome in outcomes]

    def pop_error_counts(self) -> dict[str, int]:
        """Answers since the last call that were wrong because they timed out, crashed or were refused."""
        with self._lock:
            return {str(reason): self._counts.pop(reason, 0) for reason in REASONS}


def compare_exact_first(gold: str, answer: str) -> Outcome | Job:
    """The verdict of the layers that need no computer algebra, or the comparison that is left."""
    if len(answer) > MAX_CHARS:
        return "right" if answer == gold else "guard"
    return _compare_short(gold, answer)


@lru_cache(maxsize=CACHED)
def _compare_short(gold: str, answer: str) -> Outcome | Job:
    gold, answer = _cleaned(gold), clean(answer)
    if same(answer, gold):
        return "right"
    left, right = value(gold), value(answer)
    if left is not None and right is not None and abs(left - right) > NEAR:
        return "wrong"
    if guard(answer):
        return "guard"
    return Job(gold, tuple(asserted_values(gold, answer))) if readable(gold) and readable(answer) else "wrong"


_cleaned = lru_cache(maxsize=CACHED)(clean)  # a gold answer is cleaned once for all answers of its group


def readable(text: str) -> bool:
    """Whether a cleaned text is one expression that is safe to compute."""
    if not text or guard(text) is not None or "$" in text or "\\boxed" in text:
        return False
    return not TWO_NUMBERS.search(SHORT_FRACTION.sub("", text)) and not REMARK.search(text)


def asserted_values(gold: str, answer: str) -> list[str]:
    """The texts that must all equal ``gold``: the answer and, if it is a chain such as ``17=42``, each number in it."""
    *left, right = answer.split("=") if "=" not in gold else [answer]
    numbers = [side for side in left if not re.search("[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", side))]
    return [answer, *numbers, right] if numbers else [answer]
