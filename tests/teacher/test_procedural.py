"""The procedural teacher: right or wrong as drawn, and the same answer for the same question and seed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replies import ask_all

from r1.core.errors import DATA, UserError
from r1.data.arithmetic import sum_question, worked_solution
from r1.data.base import Row
from r1.data.completion import format_completion, parse
from r1.data.text import language_share
from r1.data.verifier.countdown import countdown
from r1.teacher.base import Answer
from r1.teacher.procedural import Procedural

COUNTDOWN: Row = {
    "prompt": "make 24",
    "numbers": [3, 8],
    "target": 24,
    "completion": "<think>3 times 8 is 24</think>\n<answer>3*8</answer>",
}
problems = st.lists(st.integers(0, 99), min_size=2, max_size=8)


def row(terms: list[int]) -> Row:
    return {"prompt": sum_question(terms), "answer": str(sum(terms))}


def solve(teacher: Procedural, row: Row, num_samples: int = 1, seed: int = 0) -> list[Answer]:
    return ask_all(teacher, [row], num_samples, seed)[0]


def test_sum_without_errors_is_solved_step_by_step() -> None:
    (answer,) = solve(Procedural(error_rate=0.0, language="en"), row([3, 5, 8]))
    assert answer.text == format_completion(" 3 plus 5 is 8, plus 8 is 16.", "16")
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("stop", 0, 0)


@given(problems, st.integers(0, 1000), st.sampled_from(["en", "zh"]))
def test_error_rate_zero_is_always_right_and_one_always_wrong(terms: list[int], seed: int, language: str) -> None:
    for error_rate in (0.0, 1.0):
        (answer,) = solve(Procedural(error_rate=error_rate, language=language), row(terms), seed=seed)  # type: ignore[arg-type]
        parsed = parse(answer.text)
        assert parsed.strict
        assert (parsed.answer == str(sum(terms))) == (error_rate == 0.0)
        flawless = worked_solution(terms, random.Random(0), [language])  # type: ignore[list-item]
        assert (parsed.thinking == flawless) == (error_rate == 0.0)
        assert language_share(parsed.thinking or "", language) == 1.0  # type: ignore[arg-type]


def test_wrong_answer_agrees_with_its_last_step() -> None:
    for answer in solve(Procedural(error_rate=1.0, language="en"), row([3, 5, 8]), num_samples=20):
        parsed = parse(answer.text)
        assert parsed.thinking is not None
        assert parsed.thinking.endswith(f" {parsed.answer}.")


def test_share_of_wrong_answers_is_the_error_rate() -> None:
    answers = solve(Procedural(error_rate=0.25, language="en"), row([3, 5, 8]), num_samples=2000)
    share = sum(parse(a.text).answer != "16" for a in answers) / 2000
    assert abs(share - 0.25) < 0.04  # four standard errors


def test_answer_depends_on_its_question_and_seed_only() -> None:
    teacher = Procedural(error_rate=0.5, language="en")
    first, second = row([3, 5, 8, 9]), row([1, 2, 3, 4])
    both = ask_all(teacher, [first, second], 20, seed=7)
    assert both == [solve(teacher, first, 20, 7), solve(teacher, second, 20, 7)]
    assert both[::-1] == ask_all(teacher, [second, first], 20, seed=7)
    assert both[0][:5] == solve(teacher, first, 5, 7)
    assert both[0] != solve(teacher, first, 20, 8)
    assert len(set(both[0])) > 1


def test_countdown_answer_is_the_completion_of_the_row() -> None:
    (right,) = solve(Procedural(error_rate=0.0, language="en"), COUNTDOWN)
    (wrong,) = solve(Procedural(error_rate=1.0, language="en"), COUNTDOWN)
    assert right.text == COUNTDOWN["completion"]
    assert wrong.text == "<think>3 times 8 is 24</think>\n<answer>(3*8)+1</answer>"
    assert countdown(parse(right.text).answer or "", COUNTDOWN)
    assert not countdown(parse(wrong.text).answer or "", COUNTDOWN)


@pytest.mark.parametrize(
    "unknown",
    [
        {"prompt": "What is 3+5?"},
        {"prompt": "3+5=?\n"},
        {"prompt": "3=?"},
        {"prompt": "3-5=?"},
        {"prompt": "make 24", "numbers": [3, 8]},
        {"prompt": "make 24", "completion": "<answer>24</answer>"},
    ],
)
def test_unknown_row_is_a_data_error(unknown: Row) -> None:
    with pytest.raises(UserError, match="procedural teacher cannot solve") as caught:
        solve(Procedural(error_rate=0.0, language="en"), unknown)
    assert caught.value.code == DATA
