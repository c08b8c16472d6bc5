"""The mathematical verifier with the rules of conf/data/verifier/math.yaml, for tests."""

from __future__ import annotations

from typing import Any

from r1.data.verifier.math import Math, compare_exact_first
from r1.data.verifier.pool import Job
from r1.data.verifier.relation import Rules, same_answer

KNOBS: dict[str, Any] = {"rel_tol": 1e-6, "units": "optional", "brackets": "optional"}
SLOW = r"\Gamma(\pi)+7^{3000}+%d"
"""An answer that the guard lets pass and that takes a minute to compute; another number makes it another one."""


def math_verifier(seconds: float = 2.0, **knobs: Any) -> Math:
    return Math(**KNOBS | knobs, seconds=seconds)


def comparison(gold: str, answer: str) -> Job:
    return Job(gold, answer, Rules(**KNOBS))


def same(gold: str, answer: str, **knobs: Any) -> bool:
    """The verifier's verdict without its processes."""
    outcome = compare_exact_first(gold, answer, Rules(**KNOBS | knobs))
    return same_answer(outcome.gold, outcome.answer, outcome.rules) if isinstance(outcome, Job) else outcome == "right"
