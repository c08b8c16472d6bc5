"""The mathematical verifier: ``\\frac{1}{2}``, ``0.5`` and ``2^{-1}`` are the same answer.

Four layers, cheapest first: the exact verifier; plain numbers that are not equal; a static guard against answers that
freeze a computer algebra system; math-verify (Kydlíček, https://github.com/huggingface/math-verify) in processes of
its own for the rest. math-verify is good at comparing and too willing at reading: of "17 42" it makes 59, of "17=42"
it takes 42. So it gets one extracted answer, and only if that reads as one expression.

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

from r1.data.base import Row
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
Seconds = Annotated[float, Gt(0)]

_counts: Counter[Outcome] = Counter()
_counting = threading.Lock()


def math(answer: str, row: Row, *, seconds: Seconds) -> bool:
    """Whether ``answer`` is mathematically equal to ``row["answer"]``. No answer makes it raise or hang.

    Args:
        seconds: for one comparison, in a process that is ended then.
    """
    return many([answer], [row], seconds=seconds)[0]


def many(answers: Sequence[str], rows: Sequence[Row], *, seconds: Seconds) -> list[bool]:
    """``math`` for a whole batch, side by side in the scoring processes."""
    looks = [compare_exact_first(str(row["answer"]), answer) for answer, row in zip(answers, rows, strict=True)]
    jobs = list(dict.fromkeys(found for found in looks if isinstance(found, Job)))
    judged = dict(zip(jobs, POOL.judge(jobs, seconds), strict=True))
    outcomes = [judged[found] if isinstance(found, Job) else found for found in looks]
    with _counting:
        _counts.update(outcome for outcome in outcomes if outcome in REASONS)
    return [outcome == "right" for outcome in outcomes]


def pop_counts() -> dict[str, int]:
    """How many answers since the last call were wrong because they timed out, crashed or were refused."""
    with _counting:
        counts = {str(reason): _counts.pop(reason, 0) for reason in REASONS}
    return counts


math.many, math.pop_counts = many, pop_counts  # type: ignore[attr-defined]  # where r1.data.base looks for them


def compare_exact_first(gold: str, answer: str) -> Outcome | Job:
    """The verdict of the layers that need no computer algebra, or what is left to be judged."""
    if len(answer) > MAX_CHARS:
        return "right" if answer == gold else "guard"
    return _look(gold, answer)


@lru_cache(maxsize=CACHED)
def _look(gold: str, answer: str) -> Outcome | Job:
    gold, answer = _cleaned(gold), clean(answer)
    if same(answer, gold):
        return "right"
    left, right = value(gold), value(answer)
    if left is not None and right is not None and abs(left - right) > NEAR:
        return "wrong"
    if guard(answer):
        return "guard"
    return Job(gold, tuple(claims(gold, answer))) if readable(gold) and readable(answer) else "wrong"


_cleaned = lru_cache(maxsize=CACHED)(clean)  # a gold answer is asked for by its whole group, in every epoch


def readable(text: str) -> bool:
    """Whether a cleaned text is one expression that is safe to compute."""
    if not text or guard(text) is not None or "$" in text or "\\boxed" in text:
        return False
    return not TWO_NUMBERS.search(SHORT_FRACTION.sub("", text)) and not REMARK.search(text)


def claims(gold: str, answer: str) -> list[str]:
    """What must all equal ``gold``: the answer and, if it is a chain such as ``17=42``, each number in it."""
    *left, right = answer.split("=") if "=" not in gold else [answer]
    numbers = [side for side in left if not re.search("[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", side))]
    return [answer, *numbers, right] if numbers else [answer]
