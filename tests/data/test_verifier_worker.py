import pytest
from math_verify import LatexExtractionConfig, parse
from sympy import srepr

from r1.data.verifier import worker

READ = [
    "x^2+2x+1",
    "x^{10}-1",
    r"\frac{x^2+1}{x^2}",
    "x^2y^3",
    "(x^2+1)",
    "2(x^2-1)^2+3",
    r"\frac{1}{2}x^2-\frac{3}{4}x",
    "a^2+b^2=c^2",
    "x^2<3",
    "-x^2",
]
MISREAD = [
    "f(x^2)",
    "n(n+1)",
    "f^2(x)",
    "f^{-1}(x)",
    "x^2(x+1)",
    "x^2_1",
    "x^2 (x+1)",
    "n (n+1)^2",
    "x^23",
    "dx^2",
    "a^b^c",
    "x^{2^3}",
    "e^2",
    "I^2",
    "i^2",
    "x_1^2",
]
OTHERS = [
    "(1,2)",
    "[0,1)",
    r"\{1,2\}",
    r"\sin^2 x",
    "50",
    "1,000",
    "0.50",
    r"3\frac12",
    "007",
    "1.5",
    r"\text{x^2}",
    "xy^2",
]


@pytest.mark.parametrize("text", [*READ, *MISREAD, *OTHERS])
def test_fast_parser_reads_the_same_expression(text):
    (slow,) = parse(f"${text}$", extraction_config=[LatexExtractionConfig()], fallback_mode="no_fallback")
    assert srepr(worker.reader()(text)) == srepr(slow)


def test_only_polynomials_are_normalised():
    assert [text for text in [*READ, *MISREAD] if worker.normalise_polynomial(text) != text] == READ
