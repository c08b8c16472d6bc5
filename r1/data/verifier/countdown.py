"""The countdown verifier: an expression over + - * / that uses each given number once and equals the target.

The expression is read by the parser below and computed in fractions; nothing is evaluated as code.
``sum = product (("+"|"-") product)*``, ``product = atom (("*"|"/") atom)*``, ``atom = number | "("sum")"``.
"""

from __future__ import annotations

import re
from fractions import Fraction

from r1.data.base import Row
from r1.data.completion import normalise

MAX_CHARS = 1000
MAX_DEPTH = 50
TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")
SIGNS = {"\\times": "*", "\\cdot": "*", "×": "*", "·": "*", "⋅": "*", "\\div": "/", "÷": "/"}


def countdown(answer: str, row: Row) -> bool:
    """Whether ``answer`` makes ``row["target"]`` of ``row["numbers"]``, each used exactly once.

    A trailing ``= target`` is allowed. A sign in front (``-3+5``) is not: the numbers are given without one.
    """
    if len(answer) > MAX_CHARS:
        return False
    expression, equals, stated = plain(answer).partition("=")
    tokens = tokenise(expression)
    target = Fraction(row["target"])
    if tokens is None or (equals and tokenise(stated) != [str(target)]):
        return False
    # Before anything is computed: so the row bounds the size of every number, not the answer.
    used = sorted(int(token) for token in tokens if token.isdigit())
    return used == sorted(row["numbers"]) and evaluate(tokens) == target


def plain(answer: str) -> str:
    text = normalise(answer).strip("$ ")
    for sign, ascii_sign in SIGNS.items():
        text = text.replace(sign, ascii_sign)
    return text.replace("\\left(", "(").replace("\\right)", ")")


def tokenise(text: str) -> list[str] | None:
    """Numbers, operators and brackets; None if anything else is in the text."""
    text = text.strip()
    tokens, at = [], 0
    while at < len(text) and (match := TOKEN.match(text, at)):
        tokens.append(match.group(1))
        at = match.end()
    return tokens if at == len(text) else None


def evaluate(tokens: list[str]) -> Fraction | None:
    """The value of a whole expression; None if it is malformed, too deep, or divides by zero."""
    try:
        value, rest = _sum(tokens, 0, MAX_DEPTH)
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return value if rest == len(tokens) else None


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        other, end = _product(tokens, at + 1, depth)
        value, at = (value + other if tokens[at] == "+" else value - other), end
    return value, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _atom(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "*/":
        other, end = _atom(tokens, at + 1, depth)
        value, at = (value * other if tokens[at] == "*" else value / other), end
    return value, at


def _atom(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    if tokens[at] != "(":
        return Fraction(int(tokens[at])), at + 1  # ValueError on an operator
    if depth == 0:
        raise ValueError("too deep")
    value, at = _sum(tokens, at + 1, depth - 1)
    if tokens[at] != ")":
        raise ValueError("unclosed bracket")
    return value, at + 1
