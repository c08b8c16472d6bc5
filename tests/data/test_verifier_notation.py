"""The one spelling of an answer."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.data.verifier.notation import canonical


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("42", "42"),
        (" $42$. ", "42"),
        (r"\(42\)", "42"),
        (r"\boxed{42}", "42"),
        (r"the answer is $\boxed{42}$", "42"),
        (r"32,\!349", "32349"),
        ("12{,}345{,}678", "12345678"),
        (r"10\;000", "10000"),
        ("17 42", "17 42"),
        ("32, 349", "32, 349"),
        ("$1$,$2$", "1, 2"),
        ("x²", "x^{2}"),
        ("x¹⁰", "x^{10}"),
        ("x₁₂", "x_{12}"),
        ("½", r"\frac{1}{2}"),
        ("√2", r"\sqrt 2"),
        ("30°", r"30^\circ"),
        ("α ≤ π", r"\alpha \le \pi"),
        (r"\left( 1,2 \right)", "( 1,2 )"),
        (r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.", "x=1, y=2"),
        (r"{8 \choose 3}", r"\binom{8 }{ 3}"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        ("10:30 a.m.", "10:30 am"),
        ("", ""),
    ],
)
def test_canonical_spelling_of_a_text(text: str, spelling: str) -> None:
    assert canonical(text) == spelling


@given(st.text(max_size=80))
def test_canonical_of_any_text_never_raises_and_is_a_line(text: str) -> None:
    assert "\n" not in canonical(text)


@pytest.mark.parametrize(
    "piece", [r"\left\{\begin{array}", r"\begin{cases}", r"\boxed{", "1 000 ", "²", "√", "(", r"\!", "~", "½"]
)
def test_canonical_of_hostile_text_is_fast(piece: str) -> None:
    start = time.process_time()
    canonical(piece * (4000 // len(piece)))
    assert time.process_time() - start < 1
