"""The open-ended questions: the hidden preference by hand, and rows that keep to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.config.build import instantiate_node
from r1.core.errors import UserError
from r1.data.base import Data
from r1.data.tiny_open import open_question, parse_working, quality, row_from_open_question
from r1.reward.terms.tiny_open import tiny_open


@pytest.fixture(scope="module")
def build(config: Callable[..., Any]) -> Callable[..., Data]:
    cfg = config("data=tiny_open")
    return lambda **knobs: instantiate_node(cfg["data"] | {"num_train": 300, "num_val": 40} | knobs, "data", cfg)


def tagged(thinking: str, answer: object) -> str:
    return f"<think> {thinking}</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (tagged("3 plus 5 is 8, plus 1 is 9, plus 2 is 11, plus 3 is 14.", 14), 1.0),
        (tagged("3 加 5 得 8， 加 1 得 9， 加 2 得 11， 加 2 得 13， 加 1 得 14。", 14), 1.0),
        (tagged("3 plus 5 is 8, plus 4 is 12.", 12), (1 + 1 + 1 + 1 / 3) / 4),
        (tagged("3 plus 5 is 8, plus 1 is 9, 加 2 得 11, plus 3 is 14.", 14), (1 + 1 + 6 / 8 + 1) / 4),
        (tagged("3 plus 5 is 8, plus 4 is 13.", 13), (1 + 0 + 1 + 1 / 3) / 4),  # a wrong step
        (tagged("3 plus 5 is 8, plus 4 is 12.", 13), (1 + 0 + 1 + 1 / 3) / 4),  # does not lead there
        (tagged("3 plus 5 is 8.", 8), 0.0),  # adds nothing
        (tagged("5 plus 3 is 8, plus 4 is 12.", 12), 0.0),  # begins otherwise
        (tagged("3 plus 5 is 8, wait, 9, plus 4 is 13.", 13), 0.0),
        (tagged("3 plus 5 is 8, plus 4 is 12.", "twelve"), 0.0),
        (tagged("3 plus 5 is 8, plus 4 is 12.", 12) + " 12", 0.0),  # not the form
        ("<answer>12</answer>", 0.25),
        ("<answer>8</answer>", 0.0),
        ("12", 0.0),
    ],
)
def test_quality_matches_hand_computation(completion: str, expected: float) -> None:
    assert quality("3+5+?=?", completion) == pytest.approx(expected)
    assert tiny_open(["3+5+?=?", "3+5=?"], [completion] * 2) == [pytest.approx(expected), None]


@given(st.text())
def test_quality_of_any_text_is_between_0_and_1(text: str) -> None:
    assert 0 <= (quality("3+5+?=?", text) or 0) <= 1
    assert len(parse_working(text)[0]) == len(parse_working(text)[1])


def test_chosen_is_preferred_and_rows_have_no_gold_answer(build: Callable[..., Data]) -> None:
    data = build()
    for row in data.train + data.val:
        assert row.keys() == {"prompt", "completion", "chosen", "rejected"}
        better, worse = (quality(row["prompt"], row[side]) or 0.0 for side in ("chosen", "rejected"))
        assert better > worse
    assert {row["prompt"] for row in data.train}.isdisjoint(row["prompt"] for row in data.val)
    assert len({row["prompt"] for row in data.val}) == 40
    assert data.all_correct(["<answer>9</answer>"], data.val[:1]) == [None]


def test_answer_shares_follow_their_options(build: Callable[..., Data]) -> None:
    everyone_works = build(share_short=0.0, share_wrong=0.0)
    assert all((quality(row["prompt"], row["completion"]) or 0) > 0.6 for row in everyone_works.train)
    nobody_works = build(share_short=1.0, share_wrong=0.5)
    assert all("<think>" not in row["completion"] for row in nobody_works.train)


def test_tiny_open_rows_depend_on_the_dataset_seed(build: Callable[..., Data]) -> None:
    assert build().train == build().train
    assert build().train != build(seed=1).train


def test_too_many_held_out_questions_are_refused(build: Callable[..., Data]) -> None:
    with pytest.raises(UserError, match="not that many different problems") as caught:
        build(num_val=800)
    assert caught.value.key == "data.num_val"


def test_a_question_typed_by_hand() -> None:
    assert row_from_open_question(open_question([3, 5])) == {"prompt": "3+5+?=?"}
    assert row_from_open_question("3+5=?") is None
