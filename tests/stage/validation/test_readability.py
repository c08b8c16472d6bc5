"""Readability on texts made by hand, on any text, and on texts that would hang a careless expression."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.stage.validation.readability import (
    consistency,
    num_reflections,
    readability_metrics,
    readability_of,
    train_readability,
)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("three plus five is eight", 1.0),
        ("3 加 5 得 8，等等", 1.0),
        ("plus 5 is 8, 加 5 得 13", 0.5),
        ("plus plus is 加", 0.75),
        ("加 得 等 等 plus", 0.8),  # the most frequent language need not be the first
        ("привет мир hello", 2 / 3),
        ("привет мир مرحبا", 2 / 3),  # two scripts, neither Latin nor Chinese
        ("x = 3, $plus$", None),  # a variable and a formula are no words
        ("", None),
    ],
)
def test_consistency_matches_hand_computation(text: str, share: float | None) -> None:
    assert consistency(text) == (share if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("Wait, that is wrong. But I can CHECK: verify, evaluate, retry.", 7),
        ("a mistake; however, an error", 3),
        ("wait wait wait", 3),
        ("awaiting the waiter, checked errors, buttered", 0),  # whole words only
        ("wait\u2019s over, re-check", 2),
        ("等等，不对", 0),  # the paper's words are English
    ],
)
def test_num_reflections_counts_the_papers_ten_words(text: str, count: int) -> None:
    assert num_reflections(text) == count


def test_reflective_words_are_the_papers() -> None:
    words = "wait, mistake, however, but, retry, error, verify, wrong, evaluate, check"
    assert num_reflections(words) == len(words.split(", ")) == 10


@given(st.text() | st.text("plus加得 0123=+,is"))
def test_readability_accepts_any_text(text: str) -> None:
    share = consistency(text)
    assert share is None or 0 < share <= 1
    assert num_reflections(f"{text}\nwait") == num_reflections(text) + 1


@given(st.text("ab加得й ", max_size=40), st.text("ab加得й ", max_size=40))
def test_consistency_does_not_depend_on_order_or_repetition(a: str, b: str) -> None:
    whole = consistency(f"{a} {b}")
    assert whole == consistency(f"{b} {a}")
    assert whole == (consistency(f"{a} {b} {a} {b}") if whole is None else pytest.approx(consistency(f"{a} {b} " * 2)))


def test_readability_metrics_of_two_prompts_match_hand_computation() -> None:
    group_a = ["<think> plus is</think>", "<think> plus 加 wait 得 等 wait</think>"]
    group_b = ["<answer>8, wait</answer>", "<think> 3</think>"]
    figures = readability_metrics([*group_a, *group_b], 2, lambda texts: [len(text.split()) for text in texts])
    assert {name: (figure.value, figure.n) for name, figure in figures.items()} == {
        "val/language": (pytest.approx((1 + 0.5) / 2), 2),  # the second prompt has no thinking in words
        "val/reflection": ((0 + 2 + 1 + 0) / 4, 4),
        "val/thinking_length": (pytest.approx((2 + 6 + 0 + 1) / 4), 4),
    }
    assert all(figure.low < figure.value < figure.high for figure in figures.values())


def test_completions_without_thinking_have_no_language() -> None:
    assert set(readability_metrics(["8", "9"], 1, lambda texts: [0 for _ in texts])) == {
        "val/reflection",
        "val/thinking_length",
    }
    assert train_readability([readability_of("8")]) == {"train/reflection": 0.0}


def test_train_readability_matches_hand_computation() -> None:
    found = train_readability(
        list(map(readability_of, ["<think> plus 加</think>", "<think> wait, plus</think>", "8", "9"]))
    )
    assert found == {"train/reflection": 0.25, "train/language": 0.75}
