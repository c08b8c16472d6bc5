"""Numbers that keep the decimal text of their file, so that a gold answer is the number that people wrote."""

from __future__ import annotations

import math
from decimal import Decimal

MAX_POWER = 30  # numbers from 1e-30 to 1e30 are written without an exponent


class DecimalFloat(float):
    """A float whose ``str`` is the decimal that it was read from: 0.00001 and not 1e-05, 10000000000000000 for 1e16.

    Raises:
        ValueError: no float is that large.
    """

    text: str

    def __new__(cls, text: str) -> DecimalFloat:
        number = super().__new__(cls, text)
        if math.isinf(number):
            raise ValueError(f"the number {text} is too large for a float")
        is_plain = 10.0**-MAX_POWER <= abs(number) < 10.0**MAX_POWER
        number.text = format(Decimal(text), "f") if is_plain else str(text)
        return number

    def __str__(self) -> str:
        return self.text
