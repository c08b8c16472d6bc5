"""The relation "same answer": pairs of many kinds, its knobs, and properties of generated pairs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mathverifier import same

from r1.data.verifier.notation import canonical

FILES = sorted((Path(__file__).parent / "answers").glob("*.jsonl"))
PAIRS = [json.loads(line) for file in FILES for line in file.read_text().splitlines()]

SAME = [  # all members of a line are the same answer
    ["0.5", "1/2", r"\frac{1}{2}", r"\frac12", r"\dfrac 1 2", "½", ".5", "2^{-1}", r"50\%", r"$0.50$", "5e-1"],
    ["3.89e-10", r"3.89 \times 10^{-10}", r"3.89\cdot10^{-10}", "3.89×10⁻¹⁰", "0.000000000389"],
    ["32349", "32,349", r"32,\!349", "32{,}349", r"32\,349", "32 349", "x = 32,349", r"32,349^\circ"],
    ["1000000", r"1\;000\;000", "1\u202f000\u202f000", "10^6", "1e6"],
    ["3.5", r"3\frac{1}{2}", "3 1/2", "7/2", "3½", r"\frac{7}{2}\text{ cm}"],
    ["30", "30°", r"30^\circ", r"30^{\circ}", r"30\text{ degrees}", r"\theta = 30^\circ"],
    ["120", r"\binom{10}{3}", r"\binom{10}3", "5!", r"\boxed{120}", r"$\boxed{120}$.", r"\fbox{120}", r"\boxed 120"],
    ["11", "1011_2", "1011_{2}", "13_8", "0B_{16}"],
    ["3", r"\log_2 8", r"\log_{2}8", r"\lfloor 3.7 \rfloor", r"\sqrt{9}", "√9", r"\max(1,3)", r"\gcd(6, 9)", "|-3|"],
    ["0.1\\overline{6}", "1/6", r"\frac{5!}{6!}"],
    ["x^2+1", "x²+1", "1+x^{2}", "x**2+1", "x * x + 1", "1 + x x"],
    ["x^2+2x+1", "(x+1)^2", r"\left(1+x\right)^{2}"],
    [r"\sqrt{2}", "√2", r"\sqrt 2", "2^{1/2}", "sqrt(2)", r"\frac{2}{\sqrt{2}}"],
    [r"\infty", "∞", r"+\infty", "infinity"],
    [r"\{1,2\}", r"\{2, 1\}", r"\left\{1,2\right\}", "1, 2", "$1$,$2$", "$2$ and $1$", r"x\in\{1,2\}"],
    ["(1,2)", r"\left(1, 2\right)", r"(x,y)=(1,2)", r"\boxed{(1,2)}", "( 1 ; 2 )"],
    ["[0,1)", r"0 \le x < 1", r"x \in [0,1)", "1 > x ≥ 0"],
    [r"(-\infty,1)\cup(2,\infty)", r"(2,\infty) \cup (-\infty,1)", r"x<1 \text{ or } x>2"],
    [r"1\pm\sqrt{2}", r"1+\sqrt2, 1-\sqrt2", r"x = 1 \pm \sqrt{2}", r"\{1-\sqrt{2}, 1+\sqrt{2}\}"],
    ["y=2x+1", "y = 1+2x", "2x+1"],
    ["y=2x+1", "2x-y+1=0", "4x - 2y = -2"],
    ["x<5", "5>x", "-x>-5"],
    ["x<5", "5 > x", r"(-\infty,5)"],
    ["m_{\\max}=n^{2}-n-1", r"m_{\max } = n^2-n-1", "n^2-n-1"],
    [r"\begin{pmatrix}1\\3\end{pmatrix}", r"\begin{bmatrix}1\\3\end{bmatrix}", r"[\begin{array}{c}1\\3\end{array}]"],
    [r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.", "x=1, y=2", r"y=2 \text{ and } x=1"],
    [r"\text{(B)}", "B", "(B)", r"\textbf{B}", "B."],
    [r"\text{no solution}", r"\emptyset", "No solution", r"\{\}", "∅"],
    [r"\text{Even}", "even"],
    [r"\$18.90", "18.9", r"18.90\text{ dollars}", "$18.90"],
    ["28%", "28 percent", r"28\%", "0.28"],
    ["10:30", r"10:30 \text{ AM}", "10:30 a.m."],
    [r"15\mbox{ cm}^2", "15", r"15 \text{ square cm}", "15 cm^{2}"],
    [r"\sin 30^\circ", r"\frac{1}{2}"],
    [r"2\sin b\cos a", r"2 \cos a \sin b", r"\sin(a+b)-\sin(a-b)"],
    ["e^{i\\pi}", "-1"],
    [r"f(8)=3", "f(8) = 3", "3"],
    [r"\frac{NO}{BO}=\frac{1}{\sqrt{6}}", r"\frac{\sqrt6}{6}"],
    [r"1 \frac{m}{s}", r"\frac{m}{s}"],
    [r"\\frac{1}{3}", "1/3", "0.333333"],
]  # fmt: skip
DIFFERENT = [  # no two members of a line are the same answer
    ["0.0", "1.6e-19", "3.2e-19", "-1.6e-19"],
    ["0.000000001", "0.000000002", "1e-8"],
    [r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", "0"],
    [r"\frac{1}{2004!}", r"\frac{1}{2006!}"],
    [r"\frac{1}{3\cdot 2^{2006}}", r"\frac{2^{2005}+1}{3\cdot 2^{2006}}"],
    ["10^{100}", "10^{100}+1", "20!", "20!+1"],
    ["1/3", "0.333", "0.33", "1.3"],
    ["1234567.1", "1234567.2", "1234568"],
    ["f(8)=3", "f(8)=4", "f(7)=3"],
    ["2+2=4", "2+2=5"],
    ["x=5", "y=5", "x=6", "x=5,6"],
    ["f(x+1)=f(x)", "f(x+2)=f(x)"],
    ["x=17=42", "42", "17", "42=17"],
    ["x=1,y=2", "x=1,y=3", "2,1"],
    ["listen", "silent", r"\text{enlist}"],
    ["listen+1", "silent+1"],
    ["CBA", "ABC", "BAC"],
    ["AB", "BA"],
    [r"\angle ABC", r"\angle BAC"],
    ["1011_2", "1011_8", "1011_{3}", "1011"],
    ["A1_{16}", "A1_{12}"],
    [r"\{1,2\}", "(1,2)", "[1,2]", "[1,2)", r"\langle 1,2\rangle", r"\{1,2,3\}"],
    ["{1,2}", "(1,2)", "(2,1)"],
    [r"5\text{ cm}", r"5\text{ m}", r"6\text{ cm}", r"5\text{ cm}^2"],
    [r"90^\circ", r"90\text{ rad}", r"90\%"],
    ["17 42", "1742", "59", "174 2"],
    ["5^2", "52", "2^5"],
    ["x>5", "x<5", r"x\ge 5", "5"],
    ["x", "|x|", "y", "-x"],
    [r"\begin{pmatrix}1\\2\end{pmatrix}e^{t}", r"\begin{pmatrix}1\\3\end{pmatrix}e^{t}", "(1,2)"],
    ["2:30", "1:15", "4:2", "1/2", "2.5"],
    ["42", "42 or 43", r"42 \text{ or not}", r"42 \text{ maybe}", r"\pm 42", "43"],
    [r"\infty", r"-\infty", "8"],
    ["a", "A"],
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair['gold']} {pair['answer']}")
def test_relation_of_known_pairs(pair: dict[str, object]) -> None:
    gold, answer = str(pair["gold"]), str(pair["answer"])
    assert same(gold, answer) == same(answer, gold) == pair["same"]


@pytest.mark.parametrize("texts", SAME, ids=lambda texts: texts[0])
def test_relation_accepts_every_spelling(texts: list[str]) -> None:
    assert [(a, b) for a in texts for b in texts if not same(a, b)] == []


@pytest.mark.parametrize("texts", DIFFERENT, ids=lambda texts: texts[0])
def test_relation_rejects_what_differs(texts: list[str]) -> None:
    assert [(a, b) for a in texts for b in texts if same(a, b) != (a == b)] == []


@pytest.mark.parametrize(
    ("knobs", "gold", "answer", "expected"),
    [
        ({}, "1/3", "0.333333", True),
        ({"rel_tol": 0.0}, "1/3", "0.333333", False),
        ({"rel_tol": 0.0}, "1/2", "0.5", True),
        ({"rel_tol": 1e-3}, "1/3", "0.333", True),
        ({"rel_tol": 1e-3}, "1/3", "333/1000", False),  # both are exact
        ({"rel_tol": 1e-2}, r"\pi", "3.14", True),
        ({"units": "required"}, r"5\text{ cm}", "5", False),
        ({"units": "required"}, r"5\text{ cm}", "5 cm", True),
        ({"units": "required"}, "28%", "0.28", True),
        ({"units": "required"}, "28%", "28", False),
        ({"brackets": "required"}, r"\{1,2\}", "1,2", False),
        ({"brackets": "required"}, "(1,2)", "1,2", False),
        ({"brackets": "required"}, r"\{1,2\}", r"\{2,1\}", True),
    ],
)
def test_relation_follows_its_knobs(knobs: dict[str, object], gold: str, answer: str, expected: bool) -> None:
    assert same(gold, answer, **knobs) == same(answer, gold, **knobs) == expected


# ---- generated pairs: (spellings of one answer, answers that are changed in one place) ----

Kind = Callable[[random.Random], tuple[list[str], list[str]]]


def scientific(r: random.Random) -> tuple[list[str], list[str]]:
    """Numbers from 1e-30 to 1e30."""
    digits, exponent = r.randint(1, 99_999), r.randint(-30, 25)

    def spell(m: int, e: int) -> list[str]:
        value = Fraction(m) * Fraction(10) ** e
        point = f"{m // 1000}.{m % 1000:03}"
        plain = f"{m}{'0' * e}" if e >= 0 else f"{m:0{1 - e}}"[:e] + "." + f"{m:0{1 - e}}"[e:]
        return [
            rf"{m} \times 10^{{{e}}}",
            rf"{point}\cdot 10^{{{e + 3}}}",
            f"{m}e{e}",
            f"${plain}$",
            rf"\frac{{{value.numerator}}}{{{value.denominator}}}",
            rf"x = \frac{{{m}}}{{10^{{{-e}}}}}",
        ]

    changed = [(digits + 1, exponent), (digits, exponent + r.choice((-1, 1)))]
    return spell(digits, exponent), [
        r.choice(spell(*change)) if change[0] > 0 else f"-{digits}e{exponent}" for change in changed
    ]


def power(r: random.Random) -> tuple[list[str], list[str]]:
    a, b, n, k = r.randint(1, 50), r.randint(2, 30), r.randint(10, 400), r.randint(2, 9)
    same_value = [
        rf"\frac{{{a}}}{{{b}^{{{n}}}}}",
        rf"{a}\cdot {b}^{{-{n}}}",
        rf"\frac{{{a * k}}}{{{k}\cdot {b}^{{{n}}}}}",
    ]
    return same_value, [
        rf"\frac{{{a}}}{{{b}^{{{n + 1}}}}}",
        rf"\frac{{{a + 1}}}{{{b}^{{{n}}}}}",
        f"{a}/{b}^{{{n - 1}}}",
    ]


def factorial(r: random.Random) -> tuple[list[str], list[str]]:
    n, k = r.randint(5, 300), r.randint(2, 4)
    falling = r"\cdot ".join(str(n - i) for i in range(k))
    return [rf"\frac{{{n}!}}{{{n - k}!}}", falling, rf"\binom{{{n}}}{{{k}}}\cdot {k}!"], [
        f"{falling}+1",
        rf"\frac{{{n + 1}!}}{{{n - k}!}}",
    ]


def numeral(n: int, base: int) -> str:
    digits = ""
    while n:
        n, digit = divmod(n, base)
        digits = "0123456789ABCDEF"[digit] + digits
    return digits


def based(r: random.Random) -> tuple[list[str], list[str]]:
    n, base, other = r.randint(20, 10**6), *r.sample(range(2, 10), 2)
    text = numeral(n, base)
    changed_base = next(b for b in range(base + 1, 17))
    return (
        [f"{text}_{{{base}}}", f"{numeral(n, other)}_{{{other}}}", f"{n}", f"{numeral(n, 16)}_{{16}}+0"],
        [f"{text}_{{{changed_base}}}", f"{numeral(n + 1, base)}_{{{base}}}", text],
    )


def bracketed(r: random.Random) -> tuple[list[str], list[str]]:
    a, b = r.sample(range(-99, 99), 2)
    left, right, other = r.choice(("(", "[")), r.choice((")", "]")), r.randint(100, 200)
    flipped = {"(": "[", "[": "(", ")": "]", "]": ")"}
    return (
        [f"{left}{a},{b}{right}", rf"\left{left} {a} , {b} \right{right}", rf"${left}{2 * a}/2, {b}.0{right}$"],
        [
            f"{flipped[left]}{a},{b}{right}",
            f"{left}{a},{b}{flipped[right]}",
            f"{left}{b},{a}{right}",
            f"{left}{a},{other}{right}",
            rf"\{{{a},{b}\}}",
        ],
    )


def finite_set(r: random.Random) -> tuple[list[str], list[str]]:
    items = r.sample(range(-50, 50), r.randint(2, 6))
    shuffled, changed = r.sample(items, len(items)), [*items[:-1], 77]
    listed, mixed, other = (", ".join(map(str, values)) for values in (items, shuffled, changed))
    return [rf"\{{{listed}\}}", rf"\left\{{{mixed}\right\}}", listed], [
        rf"\{{{other}\}}",
        rf"\{{{listed}, 99\}}",
        rf"[{listed}]",
    ]


def equation(r: random.Random) -> tuple[list[str], list[str]]:
    a, b, k = r.randint(2, 40), r.randint(1, 99), r.randint(2, 9)
    return (
        [f"y={a}x+{b}", f"{a}x-y+{b}=0", f"{k}y = {k * a}x + {k * b}", f"{b} + {a} x = y"],
        [f"y={a + 1}x+{b}", f"y={a}x-{b}", f"{a}x-y+{b}=1", f"y={a}z+{b}", f"y={a}x^2+{b}"],
    )


def statement(r: random.Random) -> tuple[list[str], list[str]]:
    name, n, value = r.choice(("f", "g", "P", "h")), r.randint(0, 20), r.randint(1, 99)
    text = f"{name}({n})"
    return [f"{text}={value}", f"{text} = {2 * value}/2", f"{value}"], [
        f"{text}={value + 1}",
        f"{text}=-{value}",
        f"{value + 1}",
    ]


def arithmetic(r: random.Random) -> tuple[list[str], list[str]]:
    a, b = r.randint(2, 99), r.randint(2, 99)
    return [rf"{a}\cdot{b}={a * b}", f"{a * b}"], [rf"{a}\cdot{b}={a * b + 1}", f"{a * b + 1}", f"{a}+{b}={a * b + 1}"]


def matrix(r: random.Random) -> tuple[list[str], list[str]]:
    a, b, c, d = (r.randint(-20, 20) for _ in range(4))
    spell = r"\begin{%smatrix}%d&%d\\%d&%d\end{%smatrix}"
    return (
        [spell % (kind, a, b, c, d, kind) for kind in ("p", "b", "")],
        [
            spell % ("p", a, b, c, d + 1, "p"),
            spell % ("p", a, c + 1, b, d, "p"),
            rf"\begin{{pmatrix}}{a}&{b}\end{{pmatrix}}",
        ],
    )


KINDS: list[Kind] = [
    *(scientific, power, factorial, based, bracketed, finite_set, equation, statement, arithmetic, matrix),
]


def errors(kind: Kind, r: random.Random) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """False refusals and false accepts of one draw, in both directions."""
    spellings, changed = kind(r)
    refused = [(a, b) for a in spellings for b in spellings if not same(a, b)]
    accepted = [pair for a in spellings for b in changed for pair in ((a, b), (b, a)) if same(*pair)]
    return refused, accepted


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_relation_of_2000_random_pairs_has_no_false_verdict(kind: Kind) -> None:
    r, count = random.Random(), 0
    while count < 2000:
        refused, accepted = errors(kind, r)
        assert (refused, accepted) == ([], [])
        count += 10


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(r=st.randoms(use_true_random=False))
def test_relation_of_generated_pairs_has_no_false_verdict(kind: Kind, r: random.Random) -> None:
    assert errors(kind, r) == ([], [])


ANSWERS = st.one_of(
    st.text("0123456789x+-*/^=(){}[],.\\%_ ", max_size=25),
    st.sampled_from([text for line in [*SAME, *DIFFERENT] for text in line]),
    st.lists(st.sampled_from(["x", "=", "1", "2.5", r"\frac", "{", "}", "(", ")", ",", r"\sqrt", "^", "or", " "])).map(
        "".join
    ),
)


@settings(max_examples=300)
@given(ANSWERS, ANSWERS)
def test_relation_is_reflexive_and_symmetric(a: str, b: str) -> None:
    assert same(a, b) == same(b, a)
    assert same(a, a) == (canonical(a) != "")
