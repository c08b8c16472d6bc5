"""The fast verifier: the same number, written in any ordinary way, or the same text.

Numbers are compared as fractions, so ``0.5``, ``1/2`` and ``\\frac{1}{2}`` are one answer.
"""

from __future__ import annotations

import re
from fractions import Fraction

from r1.data.base import Row
from r1.data.completion import normalise

MAX_CHARS = 400  # longer texts are compared as text: no conversion of huge numbers
WRAPS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
# A thousands comma must have three digits after it: "1,2" is a pair, not twelve.
DECIMAL = re.compile(r"([+-]?)(?:\\?\$)?([+-]?)((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?)")
FRACTION = re.compile(r"([+-]?)\\[dt]?frac(?:\{([+-]?[0-9]+)\}\{([0-9]+)\}|([0-9])([0-9]))")
RATIO = re.compile(r"([+-]?[0-9]+) ?/ ?([0-9]+)")


def exact(answer: str, row: Row) -> bool:
    """Whether ``answer`` is the same number as ``row["answer"]``, or else the same text. Never raises."""
    return same(clean(answer), clean(str(row["answer"])))


def same(answer: str, gold: str) -> bool:
    """The comparison itself, of two cleaned texts."""
    number = value(answer)
    if number is not None:
        return number == value(gold)
    return answer != "" and answer == gold


def clean(text: str) -> str:
    """One spacing, no math delimiters around, no full stop at the end, plain commas between thousands."""
    text = " ".join((text if text.isascii() else normalise(text)).split()).removesuffix(".").strip()
    for left, right in WRAPS:
        if len(text) > len(left + right) and text.startswith(left) and text.endswith(right):
            text = text[len(left) : -len(right)].strip()
    text = text.replace("\\!", "").replace("{,}", ",")
    return re.sub(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", ",", text).removesuffix(".").strip()


def value(text: str) -> Fraction | None:
    """The number that a cleaned text writes, or None if it is not one plain number."""
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
