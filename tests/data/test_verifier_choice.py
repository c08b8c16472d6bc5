"""The verifier of multiple choice: spellings of an answer that name one option, and those that do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.data.base import as_verifier
from r1.data.verifier.choice import choice, letters

OPTIONS = ["12 m/s", "14 m/s", "A and B", "$\\frac{1}{2}$ kg", "none"]
BARE = ["A", "a", "(A)", "(a)", "A)", "A.", "A:", "[A]", "(A", "{A}", "`A`", '"A"', "  A  ", "Ａ", "（A）"]
BARE += [
    "**A**",
    "**(A)**",
    "\\text{A}",
    "\\textbf{(A)}",
    "\\textbf{A.}",
    "\\mathrm{A}",
    "\\mathbf{A}",
    "$A$",
    "\\(A\\)",
]
BARE += ["\\boxed{A}", "\\boxed{\\text{A}}", "\\boxed{(A)}", "$\\boxed{A}$", "Option A", "option (A)", "Option **A**"]
BARE += ["Choice A.", "Answer: A", "Answer - A", "The answer is A", "The correct answer is (A).", "So the answer is A"]
BARE += ["The correct option is **A**", "the final answer is option A", "A is correct", "A is the right answer."]
WITH_TEXT = ["A: 12 m/s", "A. 12 m/s", "A) 12 m/s", "(A) 12 m/s", "(A): 12 m/s.", "A - 12 m/s", "A = 12 m/s", "A: 12"]
WITH_TEXT += [
    "A\u2014 12 m/s",
    "Option A: 12 m/s",
    "Answer: (A) 12 m/s",
    "\\text{(A) }12\\text{ m/s}",
    "A: 12 m/s, since $F=ma$",
]
TEXT = ["12 m/s", "12 m/s.", "$12$ m/s", "12\\text{ m/s}", "**12 m/s**", "\\boxed{12 \\text{ m/s}}", "A 12 m/s"]
TEXT += ["The answer is 12 m/s", "A, 12 m/s", "A (12 m/s)", "Option A (12 m/s)", "A\u2014 12 m/s", "A\u201412 m/s"]
BARE += ["*A*", "<A>", "A!", "It is A", "I choose (A).", "Ans: A", "\\underline{A}"]
WRONG = ["B", "(B)", "E", "F", "", "?", "12", "14 m/s", "A1", "A2", "A_1", "A^2", "A?", "AB", "1", "0", "I", "X"]
WRONG += ["A or B", "A and B", "A, B", "A/B", "A & B", "A;B", "A+B", "(A) (B)", "(A) or (B)", "A: B", "A. B", "A-B"]
WRONG += ["not A", "Not (A)", "A is wrong", "A is incorrect", "neither A nor B", "either A", "Both A and B", "all"]
WRONG += ["B: 12 m/s", "B) 12 m/s", "A: 12 m/s or B: 14 m/s", "A: 12 m/s, or B", "Option A or option B", "A because"]
WRONG += ["none of the above", "a dog", "Alpha", "\\boxed{A} or \\boxed{B}", "A\\text{ or }B", "Answer: A or B"]
CONTRADICTS = ["A: 14 m/s", "A. 14 m/s", "(A) 14 m/s", "A: 14", "A 14 m/s", "A: none"]
ROW = {"answer": "A", "options": OPTIONS}


@pytest.mark.parametrize("answer", BARE + WITH_TEXT + TEXT)
def test_choice_accepts_a_spelling_of_the_right_option(answer: str) -> None:
    assert choice(answer, ROW)
    assert choice(answer, {"answer": "12 m/s", "options": OPTIONS})  # the gold answer as text
    assert not choice(answer, ROW | {"answer": "B"})


@pytest.mark.parametrize("answer", BARE + WITH_TEXT)
def test_choice_without_options_reads_the_letter(answer: str) -> None:
    assert choice(answer, {"answer": "A"})


@pytest.mark.parametrize("answer", WRONG + CONTRADICTS)
def test_choice_rejects_another_option_several_and_a_contradiction(answer: str) -> None:
    assert not choice(answer, ROW)


@pytest.mark.parametrize("answer", WRONG)
def test_choice_without_options_rejects_several_letters(answer: str) -> None:
    assert not choice(answer, {"answer": "A"})


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("A and B", "C"),  # an option's text
        ("C: A and B", "C"),
        ("\\frac12 kg", "D"),
        ("None", "E"),
        ("NONE", "E"),
        ("F", ""),  # there is no such option
        ("e", "E"),
    ],
)
def test_letters_of_an_options_text(answer: str, named: str) -> None:
    assert letters(answer, OPTIONS) == {*named}


def test_choice_of_a_text_that_two_options_have_is_either() -> None:
    row = {"answer": "C", "options": ["one", "two", "two"]}
    assert choice("two", row)
    assert not choice("one", row)
    assert choice("C", row)
    assert not choice("B", row)


def test_choice_with_letters_as_options_reads_the_letter_first() -> None:
    row = {"answer": "A", "options": ["C", "A", "B"]}
    assert choice("A", row)
    assert choice("A: C", row)
    assert not choice("C", row)


@given(
    st.integers(0, 9),
    st.integers(0, 9),
    st.sampled_from(["{}", "({})", "{}.", "**{}**", "\\text{{{}}}", "Option {}", "The answer is ({})."]),
)
def test_choice_names_one_letter_in_every_frame(right: int, stated: int, frame: str) -> None:
    answer = frame.format("ABCDEFGHIJ"[stated])
    row = {"answer": "ABCDEFGHIJ"[right], "options": [f"text {i}" for i in range(10)]}
    assert choice(answer, row) == (right == stated)


@given(st.lists(st.text(max_size=12), max_size=30), st.text(max_size=30))
def test_letters_of_any_text_are_those_of_the_options(options: list[str], text: str) -> None:
    assert letters(text, options[:26]) <= {*"ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options) or 26]}
    assert isinstance(choice(text, {"answer": text, "options": options}), bool)


def test_same_answers_of_choice_vote_together() -> None:
    pairs = [("A", "(A) 12 m/s", True), ("12 m/s", "A", True), ("A", "B", False), ("A or B", "A", False)]
    answers, others, expected = zip(*pairs, strict=True)
    assert as_verifier(choice).same(answers, others, [ROW] * 4) == [*expected]
