"""Readability on texts made by hand, on any text, and on texts that would hang a careless expression."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.stage.validation.readability import (
    MAX_CHARS,
    UNSPACED_MARKERS,
    WORD_MARKERS,
    consistency,
    readability_metrics,
    readability_of,
    reflects,
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
        ("x = 3, $plus$", None),  # a variable and a formula are no words
        ("", None),
    ],
)
def test_consistency_matches_hand_computation(text: str, share: float | None) -> None:
    assert consistency(text) == (share if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    "text",
    [
        "plus 5 is 15, wait, 16",
        "WAIT. That cannot be",
        "Let me double-check this.",
        "加 5 得 15，等等，16",
        "不对，应该是 16",
        "Moment mal: noch einmal",
        "잠깐만, 다시",
        "plus 5 is 15, is 16",
        "加 5 得 15，得 16",
        "= 15; = 16",
        "3+5=7. So 3 + 5 = 8.",
        "2*(3+4)=13\nagain: 2*(3+4)=14",
        "9×9 = 80\nthen 9×9=81",
    ],
)
def test_reflects_detects_rechecks_and_corrections(text: str) -> None:
    assert reflects(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plus 5 is 15, plus 5 is 20",  # a running sum
        "awaiting the waiter",
        "苹果、香蕉等等。",  # and so on
        "3+5=8, and 3+5=8 again",
        "3+5=8, 3+6=9",
        "x=3, x=4",  # no step
        "is 15, is 15",
        "3+5=8=4+4, 3+5=2+6",  # chains
        "Step 1: 13+5=18, 3+5=8",
        "1+1+1 and 2",
    ],
)
def test_reflects_ignores_texts_without_correction(text: str) -> None:
    assert not reflects(text)


@pytest.mark.parametrize("marker", [*WORD_MARKERS, *UNSPACED_MARKERS])
def test_reflects_finds_every_marker_in_any_case(marker: str) -> None:
    assert reflects(f"8. {marker.upper()}, 9")
    assert not reflects(f"x{marker}")


@given(st.text() | st.text("plus加得 0123=+,is"))
def test_readability_accepts_any_text(text: str) -> None:
    share = consistency(text)
    assert share is None or 0 < share <= 1
    assert reflects(text) <= reflects(f"{text}\nwait")


@given(st.text("ab加得й ", max_size=40), st.text("ab加得й ", max_size=40))
def test_consistency_does_not_depend_on_order_or_repetition(a: str, b: str) -> None:
    whole = consistency(f"{a} {b}")
    assert whole == consistency(f"{b} {a}")
    assert whole == (consistency(f"{a} {b} {a} {b}") if whole is None else pytest.approx(consistency(f"{a} {b} " * 2)))


@pytest.mark.parametrize("piece", ["1+", "=", "1+1=", "is 1, ", " ", "let me ", "(", "等", "- 1", "is 1,", "1"])
def test_reflects_runs_in_linear_time(piece: str) -> None:
    text = piece * (2 * MAX_CHARS // len(piece))
    started = time.perf_counter()
    reflects(text)
    assert time.perf_counter() - started < 2


def test_readability_metrics_of_two_prompts_match_hand_computation() -> None:
    group_a = ["<think> plus is</think>", "<think> plus 加 wait 得 等</think>"]
    group_b = ["<answer>8, wait</answer>", "<think> 3</think>"]
    figures = readability_metrics([*group_a, *group_b], 2, lambda texts: [len(text.split()) for text in texts])
    assert {name: (figure.value, figure.n) for name, figure in figures.items()} == {
        "val/language": (pytest.approx((1 + 0.6) / 2), 2),  # the second prompt has no thinking in words
        "val/reflection": (0.5, 4),
        "val/thinking_length": (pytest.approx((2 + 5 + 0 + 1) / 4), 4),
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
