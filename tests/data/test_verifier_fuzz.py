"""Every verifier of conf/data/verifier on any answer: true or false, in bounded time, whatever the gold answer is."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from options import HARD_TEXTS, FilledRow, build_option, option_names, suitable_filler, texts

from r1.data.base import Row, Verifier, as_verifier, verify_completions

VERIFIERS = option_names("data/verifier")
GOLD: Row = {"prompt": "3+5=?", "answer": "8", "numbers": [3, 5], "target": 8}


@cache
def build(option: str) -> Verifier:
    allowed = (
        {"allow_execution": True} if option == "code" else {}
    )  # no tests can be read of these rows: nothing is run
    return as_verifier(build_option("data/verifier", option, **allowed))


@cache
def filler(option: str) -> Any:
    return suitable_filler(lambda value: verify_completions(build(option), ["8"], [FilledRow(GOLD, value)]))


def filled(option: str, **columns: Any) -> Row:
    """The gold row with these columns, and with every other column that the verifier reads."""
    return FilledRow(GOLD | columns, filler(option))


@pytest.mark.parametrize("option", VERIFIERS)
@settings(max_examples=50)
@given(answer=texts, gold=texts)
def test_verifier_judges_any_answer(option: str, answer: str, gold: str) -> None:
    rows = [filled(option), filled(option, answer=gold), filled(option, answer=None)]
    verdicts = verify_completions(build(option), [answer, answer, answer], rows)
    assert [type(verdict) for verdict in verdicts] == [bool, bool, type(None)]
    assert verify_completions(build(option), [None], rows[:1]) == [False]
    assert verify_completions(build(option), [answer], rows[:1]) == verdicts[:1]  # alone as in a batch


@pytest.mark.parametrize("name", HARD_TEXTS)
@pytest.mark.parametrize("option", VERIFIERS)
def test_verifier_judges_hard_answers_in_seconds(option: str, name: str) -> None:
    start = time.perf_counter()
    (verdict,) = verify_completions(build(option), [HARD_TEXTS[name]], [filled(option)])
    assert verdict is False
    assert time.perf_counter() - start < 30  # a process that is started and ended, on a busy machine
