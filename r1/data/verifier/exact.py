"""The fast verifier: the same number, written in any ordinary way, or the same text.

Numbers are compared as fractions, so ``0.5``, ``1/2`` and ``\\frac{1}{2}`` are one answer.
"""

from __future__ import annotations

import re
from fractions import Fraction

from r1.data.base import Row
from r1.data.verifier.notation import canonical

MAX_CHARS = 400  # longer texts are compared as text: no conversion of huge numbers
# A thousands comma must have three digits after it: "1,2" is a pair, not twelve.
DECIMAL = re.compile(r"([+-]?) ?(?:\\dollar )?([+-]?)((?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?)")
FRACTION = re.compile(r"([+-]?) ?\\[dt]?frac(?:\{([+-]?[0-9]+)\}\{([0-9]+)\}|([0-9])([0-9]))")
RATIO = re.compile(r"([+-]?[0-9]+) ?/ ?([0-9]+)")


def exact(answer: str, row: Row) -> bool:
    """Whether ``answer`` is the same number as ``row["answer"]``, or else the same text. Never raises."""
    stated, gold = canonical(answer), canonical(str(row["answer"]))
    number = value(stated)
    if number is not None:
        return number == value(gold)
    return stated != "" and stated == gold


def value(text: str) -> Fraction | None:
    """The number that a canonical text writes, or None if it is not one plain number."""
    if len(text) > MAX_CHARS:
        return None
    if match := DECIMAL.fullmatch(text):
        sign, inner, digits = match.groups()
        once = not (sign and inner) and digits
        return signed(sign or inner, Fraction(digits.replace(",", ""))) if once else None
    if match := FRACTION.fullmatch(text):
        sign, top, bottom, short_top, short_bottom = match.groups()
        return ratio(sign, top or short_top, bottom or short_bottom)
    if match := RATIO.fullmatch(text):
        return ratio("", *match.groups())
    return None


def ratio(sign: str, top: str, bottom: str) -> Fraction | None:
    return signed(sign, Fraction(int(top), int(bottom))) if int(bottom) else None


def signed(sign: str, number: Fraction) -> Fraction:
    return -number if sign == "-" else number
