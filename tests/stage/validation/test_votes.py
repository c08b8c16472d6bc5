"""Votes of a group are counted by the verifier's relation, not by spelling."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mathverifier import math_verifier

from r1.data.base import Verifier, as_verifier
from r1.data.mixture import MixtureVerifier
from r1.data.verifier.countdown import countdown
from r1.data.verifier.exact import exact
from r1.stage.validation.metrics import maj_at_k
from r1.stage.validation.votes import votes

HALVES = ["0.5", r"\frac{1}{2}", "1/2"]
VERIFIERS = [as_verifier(exact), math_verifier()]


def maj(verifier: Verifier, right: list[str | None], wrong: list[str | None], **row: Any) -> float:
    answers, correct = right + wrong, [True] * len(right) + [False] * len(wrong)
    return maj_at_k(votes(verifier, answers, correct, [row] * len(answers), len(answers)), correct, len(answers))


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize(
    ("right", "wrong", "score"),
    [
        (HALVES, ["7", "7"], 1.0),
        (["7", "7"], HALVES, 0.0),
        (["7", "7"], [*HALVES, None], 0.0),
        (["1000", "1,000", "$1000$"], ["9", "9"], 1.0),
        (["8", "8.", "8.0", "8"], ["9", "9", "9"], 1.0),
        (["8", "8"], ["9", "9.0", "9."], 0.0),
        (["8", "8"], ["9", "9.0"], 0.5),
        (["8"], ["9", None, "10"], 1 / 3),
    ],
)
def test_votes_of_spellings_are_one_vote(verifier: Verifier, right: Any, wrong: Any, score: float) -> None:
    assert maj(verifier, right, wrong) == pytest.approx(score)


def test_votes_of_expressions_follow_the_mathematical_verifier() -> None:
    wrong = ["x^2+2x+1", "(x+1)^2", r"\{1,2\}", r"\{2,1\}", "(1,2)", "3", "3"]
    assert votes(math_verifier(), [*wrong, None], [False] * 8, [{}] * 8, 8) == [
        *("x^2+2x+1", "x^2+2x+1", r"\{1,2\}", r"\{1,2\}", "(1,2)", "3", "3", None),
    ]


def test_votes_of_countdown_count_every_right_expression_as_one() -> None:
    row = {"numbers": [1, 2, 3], "target": 6}
    assert maj(as_verifier(countdown), ["1+2+3", "3+2+1"], ["1+2", "3-1", "2*2"], **row) == 1.0


def test_votes_of_a_mixture_follow_the_part() -> None:
    verifier = MixtureVerifier({"a": as_verifier(exact), "b": math_verifier()})
    answers, correct = ["x+1", "1+x", "x+1", "1+x"], [False] * 4
    rows = [{"part": "a"}] * 2 + [{"part": "b"}] * 2
    assert votes(verifier, answers, correct, rows, 2) == ["x+1", "1+x", "x+1", "x+1"]


@given(st.lists(st.none() | st.sampled_from(["1", "1.0", "2", "4/2", "x"]), min_size=1, max_size=12))
def test_votes_are_equal_exactly_for_equal_answers(answers: list[str | None]) -> None:
    found = votes(VERIFIERS[0], answers, [None] * len(answers), [{}] * len(answers), len(answers))
    value = {"1": 1, "1.0": 1, "2": 2, "4/2": 2, "x": 3, None: None}
    for a, vote in zip(answers, found, strict=True):
        assert [vote == other for other in found] == [value[a] == value[b] for b in answers]
