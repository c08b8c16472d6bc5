from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.data.verifier.countdown import MAX_DEPTH, countdown, evaluate, tokenise

ROW = {"answer": "(7 - 3) * 6", "numbers": [3, 6, 7], "target": 24}


@pytest.mark.parametrize(
    "answer",
    [
        "(7 - 3) * 6",
        "6*(7-3)",
        "6 * (7 - 3) = 24",
        "$6 \\times (7 - 3)$",
        "6\\cdot\\left(7-3\\right)",
        "6 × (7 − 3)",
        "((6))*(((7)-(3)))",
    ],
)
def test_countdown_accepts_right_expressions(answer):
    assert countdown(answer, ROW)


@pytest.mark.parametrize(
    "answer",
    [
        "24",
        "6 * (7 - 3) = 25",
        "6 * (7 - 3) = 24 = 24",
        "6 * (7 - 3) =",
        "24 = 6 * (7 - 3)",
        "6 * 7 - 3",  # 39
        "6 * 4",  # a number that is not given
        "6 * (7 - 3) + 6 - 6",  # a number twice
        "7 * 6 - 6 * 3",
        "(7 - 3) * 6 * 1",
        "3 * 8",
        "6(7-3)",  # no multiplication sign
        "(7 - 3 * 6",
        "7 - 3) * 6",
        "-3 + 7 * 6",
        "6 ** (7 - 3)",
        "6 // 3 + 7",
        "",
        "()",
        "3 6 7",
        "__import__('os').system('touch pwned')",
        "6 * (7 - 3) # 24",
        "6 * (7 - 3)" + " " * 1000,
    ],
)
def test_countdown_rejects_wrong_expressions(answer):
    assert not countdown(answer, ROW)


def test_intermediate_fractions_are_exact():
    assert countdown("8 / (3 - 8 / 3)", {"numbers": [3, 3, 8, 8], "target": 24})


def test_each_number_is_used_exactly_as_often_as_listed():
    row = {"numbers": [2, 2, 3], "target": 7}
    assert countdown("2*2+3", row)
    assert not countdown("2+2+3", row | {"target": 8})
    assert not countdown("2*2+3", row | {"numbers": [2, 3]})


def test_division_by_zero_is_wrong_not_an_error():
    assert not countdown("1 / (2 - 2)", {"numbers": [1, 2, 2], "target": 0})


def test_precedence_and_association():
    assert evaluate(tokenise("8-3-2")) == 3
    assert evaluate(tokenise("8/4/2")) == 1
    assert evaluate(tokenise("2+3*4")) == 14
    assert evaluate(tokenise("(2+3)*4")) == 20


def test_depth_is_bounded():
    deep = "(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH
    assert evaluate(tokenise(deep)) == 1
    assert evaluate(tokenise(f"({deep})")) is None


TREES = st.recursive(
    st.integers(1, 50).map(lambda n: (str(n), Fraction(n), [n])),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner)
        .filter(lambda t: t[1] != "/" or t[2][1] != 0)
        .map(lambda t: joined(*t))
    ),
    max_leaves=6,
)


def joined(left, sign, right):
    a, b = left[1], right[1]
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[sign]
    return f"({left[0]} {sign} {right[0]})", value, left[2] + right[2]


@given(TREES)
def test_any_expression_tree_has_its_value(tree):
    text, value, numbers = tree
    assert evaluate(tokenise(text)) == value
    assert countdown(text, {"numbers": numbers, "target": value})
    assert not countdown(text, {"numbers": numbers, "target": value + 1})


@given(st.text("0123456789+-*/()= .x", max_size=40))
def test_countdown_of_any_text_does_not_raise(text):
    assert isinstance(countdown(text, ROW), bool)
