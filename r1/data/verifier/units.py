"""Units of measure behind (or, for money, in front of) a number: which words are units, and which of them are one."""

from __future__ import annotations

import re
from itertools import pairwise

SAME = {  # other spellings of a unit; a plural's s is dropped before
    **{
        "degree": "deg",
        "dollar": "$",
        "usd": "$",
        "percent": "%",
        "percentage": "%",
        "pct": "%",
        "euro": "€",
        "eur": "€",
        "inr": "rupee",
    },
    **{"hour": "h", "hr": "h", "minute": "min", "second": "s", "sec": "s", "day": "d", "year": "yr", "gram": "g"},
    **{"kilogram": "kg", "liter": "l", "litre": "l", "milliliter": "ml", "pound": "lb", "ounce": "oz", "radian": "rad"},
    **{"meter": "m", "metre": "m", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm"},
    **{"kilometer": "km", "kilometre": "km", "inche": "in", "inch": "in", "foot": "ft", "feet": "ft", "mile": "mi"},
    **{"yard": "yd", "sq": "square", "cu": "cubic", "newton": "n", "joule": "j", "watt": "w", "volt": "v"},
}
SHORT = {  # of two or three letters; a longer word behind a number is a unit anyway
    *("AM", "GHz", "GeV", "Hz", "MHz", "MeV", "PM", "Pa", "USD", "am", "bag", "box", "boy", "car", "cm", "cu"),
    *("cup", "dB", "day", "deg", "eV", "egg", "ft", "gal", "hr", "hrs", "in", "kHz", "kJ", "kPa", "keV", "kg"),
    *("km", "kph", "lb", "lbs", "mL", "man", "men", "mg", "mi", "min", "ml", "mm", "mol", "mph", "ms", "nm"),
    *("yen", "INR", "EUR", "GBP"),
    *("oz", "pct", "pen", "per", "pm", "pts", "rad", "sec", "sq", "ton", "toy", "way", "yd", "yr", "yrs"),
}
NOT_UNITS = {  # words of a hedged or second answer, 42 \text{ or not}
    *("about", "almost", "and", "are", "but", "except", "false", "if", "incorrect", "instead", "is", "maybe"),
    *("for", "mod", "no", "nor", "not", "or", "otherwise", "perhaps", "rather", "than", "the", "unless", "when"),
    *("where", "with", "wrong"),
}
MAX_WORDS = 5
PART = re.compile(r"[a-zA-Z.]+|[%$€°/]|\^?-?[0-9]+")


def is_unit(word: str) -> bool:
    """Whether a run of letters behind a number is a unit, and no product of letters."""
    return word in SHORT or (len(word) > 3 and word.lower() not in NOT_UNITS)


def unit(text: str) -> str | None:
    """The one spelling of a unit such as ``cm^2`` or ``miles per hour``; None if a text is none."""
    parts = PART.findall(text)
    words = [part.lower() for part in parts if part[0].isalpha()]
    other = PART.sub("", text.replace("-", " ")).strip(" ^{}()")
    counted = any(part.isdigit() and after.isalpha() for part, after in pairwise(parts))  # 5 feet 3 inches is not 5
    if other or counted or text.lstrip().startswith(".") or not (words or set(parts) & {"%", "$", "€", "°"}):
        return None
    if len(words) > MAX_WORDS or any(word in NOT_UNITS for word in words):
        return None
    named = [_one_spelling(part) for part in parts]
    for adjective, power in (("square", "2"), ("cubic", "3")):
        if adjective in named[:-1]:
            at = named.index(adjective)
            named[at : at + 2] = [named[at + 1], power]
    return " ".join("/" if part == "per" else part.removeprefix("^") for part in named)


def _one_spelling(part: str) -> str:
    word = part if len(part) < 3 and part not in ("AM", "PM") else part.lower().replace(".", "")
    singular = word.removesuffix("s") if len(word) > 2 else word
    return SAME.get(word, SAME.get(singular, singular)).lower() if len(word) > 2 else SAME.get(word.lower(), word)
