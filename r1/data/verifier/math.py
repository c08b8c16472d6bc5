"""The mathematical verifier: ``\\frac{1}{2}``, ``0.5`` and ``2^{-1}`` are the same answer.

Three layers, cheapest first: plain numbers and equal texts; a static guard against answers that would freeze any
computation; the relation "same answer" (r1/data/verifier/relation.py) in separate processes for the rest. All three
depend on the two texts alone, but for the time limit, which ordinary answers stay a hundredfold below: the guard, not
the clock, is meant to stop hostile ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from r1.data.base import Row
from r1.data.verifier.counting import CountingVerifier
from r1.data.verifier.exact import value
from r1.data.verifier.guard import guard
from r1.data.verifier.notation import canonical
from r1.data.verifier.pool import POOL, Job, Outcome
from r1.data.verifier.reader import read
from r1.data.verifier.relation import Presence, Rules, close
from r1.data.verifier.tokens import PHRASE, TEXT, compact

MAX_CHARS = 4000  # of an answer as it is written; longer ones are compared as they are
CACHED = 16_384  # pairs of gold and answer
MAX_WORDS = 6  # of a gold answer in words; a sentence is never met word for word


class Math(CountingVerifier):
    """Whether an answer is mathematically equal to ``row["answer"]``. No answer makes it raise or hang.

    Args:
        rel_tol: largest difference, relative to the larger number, where one of two numbers is a decimal; 0: none.
        units: ``optional``: a unit may be missing on one side; ``required``: both state it.
        brackets: ``optional``: those of a set or tuple may be missing on one side; ``required``: both have them.
        seconds: time limit of one comparison, whose process is ended then.
    """

    reasons: ClassVar[tuple[str, ...]] = ("timeouts", "died", "guard", "gold")  # refused by the guard; unreadable gold

    def __init__(
        self,
        *,
        rel_tol: Annotated[float, Ge(0)],
        units: Presence,
        brackets: Presence,
        seconds: Annotated[float, Gt(0)],
    ) -> None:
        super().__init__()
        self.rules, self.seconds = Rules(rel_tol, units, brackets), seconds

    def __call__(self, answer: str, row: Row) -> bool:
        return self.verify_batch([answer], [row])[0]

    def verify_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        """Each of B answers, in parallel in the scoring processes."""
        outcomes = self._compare([str(row["answer"]) for row in rows], answers)
        self.count(outcomes)
        return [outcome == "right" for outcome in outcomes]

    def same(self, answers: Sequence[str], others: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        return [outcome == "right" for outcome in self._compare(others, answers)]

    def reads(self, rows: Sequence[Row]) -> list[bool]:
        return [readable(canonical(str(row["answer"]))) for row in rows]

    def _compare(self, golds: Sequence[str], answers: Sequence[str]) -> list[Outcome]:
        verdicts = [compare_exact_first(*pair, self.rules) for pair in zip(golds, answers, strict=True)]
        jobs = list(dict.fromkeys(verdict for verdict in verdicts if isinstance(verdict, Job)))
        judged = dict(zip(jobs, POOL.judge(jobs, self.seconds), strict=True))
        return [judged[verdict] if isinstance(verdict, Job) else verdict for verdict in verdicts]


def compare_exact_first(gold: str, answer: str, rules: Rules) -> Outcome | Job:
    """The verdict of the layers that need no computation, or the comparison that is left."""
    if max(len(gold), len(answer)) > MAX_CHARS:
        return "right" if answer == gold else "guard"
    return _compare_short(gold, answer, rules)


@lru_cache(maxsize=CACHED)
def _compare_short(gold: str, answer: str, rules: Rules) -> Outcome | Job:
    gold, answer = canonical(gold), canonical(answer)
    if gold == answer:
        return "right" if gold else "wrong"
    left, right = value(gold), value(answer)
    if left is not None and right is not None:
        return "right" if close(left, right, max(_last_place(gold), _last_place(answer)), rules.rel_tol) else "wrong"
    if not readable(gold):
        return "right" if unwrapped(gold) == unwrapped(answer) else "gold"
    if guard(answer):
        return "guard"
    return Job(gold, answer, rules) if answer else "wrong"


@lru_cache(maxsize=CACHED)
def readable(gold: str) -> bool:
    """Whether a canonical gold answer is mathematics or a few words, so that another spelling can equal it."""
    if value(gold) is not None:
        return True
    if not gold or len(gold) > MAX_CHARS or guard(gold):
        return False
    tree = read(gold)
    return tree.kind != "unread" and not (tree.kind == "text" and gold.count(" ") >= MAX_WORDS)


def unwrapped(text: str) -> str:
    """A text without its text commands, ``\\text{May 1}`` is ``May 1``, and a sentence without its layout."""
    plain = " ".join(TEXT.sub(r" \1 ", text).split())
    return compact(plain) if PHRASE.fullmatch(plain) else plain


def _last_place(number: str) -> Fraction:
    """One unit in the last place of a plain number; 0 if it is no decimal."""
    _, point, decimals = number.partition(".")
    return Fraction(1, 10 ** len(decimals)) if point else Fraction(0)
