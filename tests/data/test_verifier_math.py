import threading
import time
from math import log10

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mathverifier import SLOW, math_verifier

from r1.data.verifier.guard import MAX_DIGITS, digits, guard

math = math_verifier()

HOSTILE = [
    "9^{9^9}",
    "9**9**9",
    "9 ^ 9 ^ 9",
    "9^{9}^{9}",
    "9^{9^{9^9}}",
    r"\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)} - 5}{16}",
    "(9^{9999})^{9999}",
    r"\frac{9^{9999}}{2}^{9999}",
    "9^{9999*9999}",
    "9^{(99)(99)(99)}",
    "9^{9!}",
    r"9^\frac{9^9}{1}",
    "9^|9^9|",
    r"9^\lfloor 9^9\rfloor",
    "e^{e^{e^{10}}}",
    r"\exp(\exp(\exp(10)))",
    "((9!)!)!",
    "1000000!",
    "(10^9)!",
    "999!^{999}",
    "10^{10000000}",
    "10^{-100000000}",
    "2^{1000000000}",
    r"\frac{1}{3^{9999999}}",
    "1e400000000",
    "1e-400000000",
    "9^{1e9}",
    "(1.5e999)!",
    r"\sqrt{10^{100000}+1}",
    r"\sqrt[9^{9^9}]{2}",
    "{" * 200 + "1" + "}" * 200,
    "(" * 100 + "1" + ")" * 100,
    r"\frac{1}{" * 30 + "2" + "}" * 30,
    r"\sqrt{" * 100 + "2" + "}" * 100,
    "9" * 5000,
    "+".join(f"x_{{{i}}}" for i in range(300)),
    r"\int_0^\infty \frac{\sin(x^x)}{x^{x}} dx",
    r"\sum_{n=1}^{1000000000} \frac{1}{n^2}",
    r"\prod_{n=1}^{10000000} n",
    r"\binom{100000000}{50000000}",
    r"{10^9 \choose 5}",
    r"\Gamma(10^8)",
    r"\lfloor \pi^{1000000} \rfloor",
    r"\sin(" * 60 + "1" + ")" * 60,
    r"\{" + ",".join(map(str, range(2000))) + r"\}",
    "9^" * 100 + "9",
    "=" * 100,
    "}{",
    "42}{43",
]
NORMAL = [
    "42",
    r"\frac{1}{2}",
    "2^{1000}",
    "10!",
    "999!",
    r"\binom{50}{25}",
    r"\binom{100}{50}\left(\frac12\right)^{100}",
    r"\frac{(2n)!}{n!(n+1)!}",
    "x^2+2x+1",
    "x^4-4x^2+3",
    "x^{10}+x^9+x^8+x^7+x^6+x^5+x^4+x^3+x^2+x+1",
    r"3\sqrt{2}",
    r"\frac{1+\sqrt{5}}{2}",
    "(1,2)",
    r"[0,\infty)",
    r"\{1,2,3\}",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
    "x=5",
    "-7",
    "3.14159",
    "1,000",
    r"50\%",
    r"e^{i\pi}",
    "2^{2^3}",
    "2^{2^n}",
    r"\pi^2/6",
    "10^{12}",
    r"\log_2 8",
    "a^2+b^2=c^2",
    "a^n+b^n=c^n",
    r"\sin^2 x+\cos^2 x",
    r"2^{n+1}-1",
    r"x \in (-\infty,-2)\cup(2,\infty)",
    r"\left(\frac{2}{3}\right)^{2017}",
    r"\frac{3^{2017}-1}{2^{2017}}",
    r"\frac{1}{\sigma\sqrt{2\pi}} e^{-\frac{(x-\mu)^2}{2\sigma^2}}",
    "C_1e^{2x}+C_2e^{-x}+C_3e^{x}",
    r"180^\circ + 1000",
    "1.6e-19",
    r"6.022 \times 10^{23}",
    "2.3e^{-0.0138629t}",
    "x^x+x^{x+1}",
]


@pytest.mark.parametrize("answer", HOSTILE)
def test_hostile_answers_are_refused_at_once(answer):
    start = time.perf_counter()
    assert guard(answer) is not None
    assert not math(answer, {"answer": "42"})
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("answer", NORMAL)
def test_normal_answers_pass_the_guard(answer):
    assert guard(answer) is None


NUMBERS = st.integers(2, 30)


@given(NUMBERS, NUMBERS, NUMBERS, st.sampled_from(["^{%s}", "^(%s)", "**(%s)", r"^{\left(%s\right)}"]))
def test_the_size_of_a_power_tower_is_never_underestimated(a, b, c, power):
    tower = f"{a}{power % (str(b) + power % c)}"
    other = f"({a}{power % b}){power % c}"
    for text, exponent in ((tower, b**c), (other, b * c)):
        assert guard(text) is not None or digits(text) >= exponent * log10(a) - 1e-6
        assert guard(text) is not None or exponent * log10(a) <= MAX_DIGITS


@given(st.text("9xe^*{}()[]!|\\binom-+, .frac", max_size=60))
def test_the_guard_judges_any_text(text):
    assert guard(text) is None or isinstance(guard(text), str)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("0.5", r"\frac{1}{2}"),
        ("42", "x=42"),
        ("x=42", "42"),
        ("42", "6*7=42"),
        ("256", "2^{2^3}"),
        ("2^{1000}", "4^{500}"),
        (r"\sqrt{18}", r"3\sqrt{2}"),
        ("x^2+2x+1", "(x+1)^2"),
        ("a^2+b^2=c^2", "c^2=a^2+b^2"),
        ("x^2+y^2=25", "y^2+x^2=25"),
        (r"\{1,2\}", "1,2"),
        (r"\frac{7}{2}", r"3\frac{1}{2}"),
        (r"\frac12", r"\frac 1 2"),
        (r"50\%", "50%"),
        (r"\frac12", r"50\%"),
        (r"90^\circ", "90"),
        ("42", r"42\text{ cm}"),
        (r"\text{(A)}", "A"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
        (r"x \in (-\infty,-2)\cup(2,\infty)", r"(-\infty,-2)\cup(2,\infty)"),
    ],
)
def test_math_accepts_equal_answers(gold, answer):
    assert math(answer, {"answer": gold})


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "17 42"),
        ("59", "17 42"),  # math-verify's own reading of "17 42"
        ("6", "4 2"),
        ("714", r"17 \quad 42"),
        ("42", "42 or 43"),
        ("42", "43 or 42"),
        ("42", r"42 \text{ or } 43"),
        ("42", r"42 \text{ or maybe not}"),
        ("42", r"42 \text{ not}"),
        ("42", "42, 43"),
        ("42", "17=42"),
        ("42", "42=17"),
        ("42", "x=17=42"),
        ("42", "the answer is 42"),
        ("42", r"\text{the answer is } 42"),
        ("42", "lorem ipsum 42 dolor"),
        ("42", "$17$ and $42$"),
        ("42", "17$ $42"),
        ("42", r"\boxed{17}\boxed{42}"),
        ("42", r"\pm 42"),
        ("42", "42}{43"),
        ("42", ""),
        ("42", "nan"),
        ("(1,2)", "(2,1)"),
        (r"-\infty", r"\infty"),
        ("1/3", "0.33"),
        ("x", "y"),
    ],
)
def test_math_rejects_different_answers(gold, answer):
    assert not math(answer, {"answer": gold})


def test_a_slow_comparison_is_cut_short():
    verifier = math_verifier(seconds=0.5)
    start = time.perf_counter()
    assert not verifier(SLOW % 1, {"answer": "42"})
    assert time.perf_counter() - start < 5  # half a second, and the start of the scoring processes
    assert verifier.pop_error_counts() == {"timeouts": 1, "died": 0, "guard": 0, "gold": 0}


def test_math_verifier_works_in_another_thread():
    caught = []
    thread = threading.Thread(target=lambda: caught.append(math("x+1", {"answer": "1+x"})))
    thread.start()
    thread.join()
    assert caught == [True]


@settings(max_examples=40)
@given(st.integers(-99, 99), st.integers(1, 99), st.integers(2, 9))
def test_fractions_are_equal_whatever_their_terms(top, bottom, factor):
    answer = f"\\frac{{{top * factor}}}{{{bottom}}} \\cdot \\frac{{1}}{{{factor}}}"
    assert math(answer, {"answer": f"{top}/{bottom}"})
    assert not math(answer, {"answer": f"{top * 100 + 1}/{bottom * 100}"})
