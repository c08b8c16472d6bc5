"""Lenient reading: the answer that each reader takes from a completion."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.data.base import as_verifier
from r1.data.completion import parse
from r1.data.lenient import READERS, Reading, lenient_answer
from r1.data.verifier.choice import choice
from r1.data.verifier.exact import exact
from r1.stage.validation.metrics import Sample, sample_metrics
from r1.stage.validation.sampling import lenient_verdicts


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("It is 42.", "42"),
        ("so 3 + 4 = 7 apples", "7"),
        ("72 eggs per day.", "72"),
        ("**72**", "72"),
        ("$5$", "5"),
        ("The total is $1,234.50.", "1,234.50"),
        ("100,000,000", "100,000,000"),
        ("the loss is -$18", "-18"),
        ("x=-5", "-5"),
        ("x = −5", "-5"),  # U+2212
        ("10-5", "5"),
        ("1,2,3", "3"),
        ("3/4 of it", "3/4"),
        ("\\frac{3}{4}", "\\frac{3}{4}"),
        ("of .5 only", ".5"),
        ("an area of 20 m^2", "20"),
        ("20 m^{2}", "20"),
        ("12 m²", "12"),
        ("x_1 is 5cm", "5"),
        ("H2O", None),
        ("no number", None),
        ("<think>1</think>two, then 3", "3"),
        ("<think>First 1, then 2", "2"),  # nothing follows the thinking
        ("<answer>18 dollars</answer> for 3 people", "18"),
        ("<answer>five</answer>", "five"),  # the stated answer, where it reads none
    ],
)
def test_last_number_of_the_answer_or_the_text(completion: str, answer: str | None) -> None:
    assert lenient_answer(completion, "last_number") == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("The answer is (B).", "B"),
        ("The answer is B", "B"),
        ("**Answer: C**", "C"),
        ("Answer: $\\text{B}$", "B"),
        ("the correct option is **E**", "E"),
        ("I think A is good but the answer is D", "D"),
        ("Options A and C are wrong. The answer: (D)", "D"),
        ("Not A or C.\n(D)", "D"),
        ("So:\nB.\n", "B"),
        ("A cat is here. So B", "B"),
        ("I would say so", None),
        ("A good question", None),
        ("answer is apple", None),
        ("<think>B</think>The answer is A", "A"),
    ],
)
def test_letter_behind_the_answer_or_the_last_one(completion: str, answer: str | None) -> None:
    assert lenient_answer(completion, "letter") == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>So \\boxed{5} and", "5"),
        ("<answer>\\boxed{3}</answer> <answer>", "3"),
        ("<answer>4</answer>", "4"),
        ("4", None),
    ],
)
def test_boxed_is_read_outside_the_form(completion: str, answer: str | None) -> None:
    assert lenient_answer(completion, "boxed") == answer


@given(st.text(), st.sampled_from([*READERS]))
def test_reader_reads_any_text(completion: str, reader: Reading) -> None:
    answer = lenient_answer(completion, reader)
    assert answer is None or answer.strip()
    if reader == "strict":
        assert answer == parse(completion).answer


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", ["1", "1,", "-$", "answer is ", "A", "(", "answer *", "\\frac{1}{", "1/"])
def test_reader_takes_linear_time(text: str, reader: Reading) -> None:
    start = time.perf_counter()
    lenient_answer(text * 100_000, reader)
    assert time.perf_counter() - start < 10  # a second on an idle machine


def test_lenient_verdicts_are_strict_or_lenient_ones() -> None:
    texts = ["<answer>7, 8</answer>", "I get 8.", "I get 9.", "I get 8.", "It is 8."]
    rows = [{"answer": "7, 8"}, *[{"answer": "8"}] * 3, {"prompt": "Why?"}]
    readers: list[Reading] = ["last_number", "last_number", "last_number", "strict", "last_number"]
    verdicts = lenient_verdicts(as_verifier(exact), texts, [True, False, False, False, None], rows, readers)
    assert verdicts == [True, True, False, None, None]
    letters = lenient_verdicts(as_verifier(choice), ["So the answer is (C)."], [False], [{"answer": "C"}], ["letter"])
    assert letters == [True]


def test_lenient_metric_stands_beside_the_strict_one() -> None:
    def sample(correct: bool, lenient: bool | None) -> Sample:
        return Sample("8", 1, False, correct, None, lenient)

    groups = [[sample(False, True), sample(True, True)], [sample(False, False), sample(False, True)]]
    metrics = sample_metrics(groups, [1])
    assert (metrics["val/pass@1"].value, metrics["val/lenient"].value) == (0.25, 0.75)
    assert "val/lenient" not in sample_metrics([[sample(False, None)] * 2], [1])
