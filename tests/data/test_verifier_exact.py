from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.data.verifier.exact import exact, value
from r1.data.verifier.notation import canonical


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "42"),
        ("42", "042"),
        ("42", "+42"),
        ("42", "42.0"),
        ("42", "42."),
        ("42", "$42$"),
        ("42", "$42"),
        ("42", "\\$42"),
        ("42", "\\(42\\)"),
        ("-5", "-$5"),
        ("-5", "−5"),  # U+2212
        ("1234567", "1,234,567"),
        ("10000", "10{,}000"),
        ("10000", "10,\\!000"),
        ("10000", "10\\,000"),
        ("0.5", ".5"),
        ("0.5", "1/2"),
        ("0.5", "\\frac{1}{2}"),
        ("0.5", "\\dfrac{7}{14}"),
        ("-3/2", "-\\frac{3}{2}"),
        ("-3/2", "\\frac{-3}{2}"),
        ("1/2", "\\frac12"),
        ("4", "８/２"),  # full-width digits
        ("3.0", "3"),
        ("Paris", " Paris. "),
        ("x + 1", "x  +\n1"),
    ],
)
def test_exact_accepts_the_same_answer(gold, answer):
    assert exact(answer, {"answer": gold})


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("12", "1,2"),  # a pair, not a number
        ("1234", "12,34"),
        ("42", "17 42"),
        ("1742", "17 42"),
        ("42", "42 or 43"),
        ("42", "the answer is 42"),
        ("42", "--42"),
        ("42", "-$-42"),
        ("42", "42/0"),
        ("0", "0/0"),
        ("0", ""),
        ("0", "$"),
        ("", ""),
        (" ", ""),
        ("1/3", "0.333333"),
        ("Paris", "paris"),
        ("52", "5²"),
        ("42", "42%"),
        ("1", "."),
        ("42", "4.2e1"),
    ],
)
def test_exact_rejects_different_answers(gold, answer):
    assert not exact(answer, {"answer": gold})


def test_gold_may_be_a_number():
    assert exact("0.50", {"answer": 0.5})


def test_huge_texts_are_compared_as_text():
    nines = "9" * 50_000  # beyond what int() reads
    assert exact(nines, {"answer": nines})
    assert not exact(nines + "8", {"answer": nines})


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**9))
def test_every_way_to_write_a_fraction_has_its_value(top, bottom):
    wanted = Fraction(top, bottom)
    sign = "-" if top < 0 else ""
    assert value(f"{top}/{bottom}") == value(f"\\frac{{{top}}}{{{bottom}}}") == wanted
    assert value(f"{sign}\\frac{{{abs(top)}}}{{{bottom}}}") == wanted


@given(st.decimals(-(10**9), 10**9, places=4))
def test_every_way_to_write_a_decimal_has_its_value(number):
    wanted = Fraction(number)
    assert value(f"{number:f}") == value(f"{number:,f}") == value(canonical(f"${number:,f}$.")) == wanted


@given(st.text(max_size=60), st.text(max_size=60))
def test_never_raises_and_is_symmetric(left, right):
    assert exact(left, {"answer": right}) == exact(right, {"answer": left})
