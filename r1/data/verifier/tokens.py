"""Tokens of an answer's canonical spelling: brackets, items of a list, numbers and numerals."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import partial

from r1.data.verifier.tree import SPELLED, SYNONYMS, Node

OPEN = {"(": "(", "[": "[", "\\{": "{", "\\langle": "<", "\\lbrace": "{"}
CLOSE = {")": ")", "]": "]", "\\}": "}", "\\rangle": ">", "\\rbrace": "}"}
SET_OPERATIONS = {"\\cup": "union", "\\cap": "intersection", "\\setminus": "difference", "\\backslash": "difference"}
MONEY = {"\\dollar": "$", "\\euro": "€", "\\pound": "lb", "\\yen": "yen", "\\rupee": "rupee"}
SCALES = {"hundred": "2", "thousand": "3", "million": "6", "billion": "9", "trillion": "12"}
FENCES = {"\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}

TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|mathrm|mathsf|mbox|hbox)\s*\{([^{}]*)\}")
NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
TOKEN = re.compile(
    rf"{TEXT.pattern}|\\(?:begin|end)\s*\{{[a-zA-Z]+\*?\}}|\\[a-zA-Z]+|\\.|{NUMBER.pattern}|[a-zA-Z]+|\*\*|<=|>=|!=|:=|.",
    re.DOTALL,
)
TIGHT = re.compile(r"(?<=[0-9]),(?![0-9]{3}(?![0-9]))(?=[0-9])")  # of 27,54,108, where no comma separates thousands
COMMAS = re.compile(r"(?<![0-9])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])")
DECIMALS = re.compile(r"\.[0-9]+")
REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*\{?([0-9]+)\}?")
NUMERAL = re.compile(r"((?:[0-9]|[A-Z](?=[0-9A-Z]))[0-9A-Z]*(?:\.[0-9A-Z]+)?)_(?:\{\s*([0-9]+)\s*\}|([0-9]+))(?![0-9])")
MIXED = re.compile(
    r"\s*\\[dtc]?frac\s*(?:\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}|([0-9])\s*([0-9]))|\s+([0-9]+)/([0-9]+)(?![0-9])"
)
PRIMES = re.compile(r"\s*\^\s*(?:\{\s*((?:\\prime\s*)+)\}|(\\prime))(?![a-zA-Z])")
INVERSE = re.compile(r"\s*\^\s*\{\s*-\s*1\s*\}\s*(?=\()")
DEGREE = re.compile(r"\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree)(?![a-zA-Z])")
SEPARATOR = re.compile(
    r"[,;]?\s*(?:\\(?:text(?:bf|it|rm)?|mathrm|mbox)\s*\{\s*[,;]?\s*(?:and|or)\s*\}|\b(?:and|or)\b)|[,;]"
)
CONJUNCTION = re.compile(r"\b(?:and|or)\b")
MINUTES = re.compile(r"[0-5][0-9](?![0-9.])")
ARGUMENT = re.compile(r"\(\s*-?[0-9.]+\s*\)")
REMARK = re.compile(r"\(\s*([a-zA-Z][a-zA-Z. ]*)\)")
UNIT_RATIO = re.compile(
    r"(?:[kcm]?m|mi|ft|in|[km]?g|J|N|W|V|C|m?L|k?mol|rad|rev|lb)/(?:s|h|hr|min|[km]?g|mL|ml|L|l|mol|c?m|ft|day|K|C)"
    r"(?:\^\{?-?[0-9]\}?)?(?=\s*$|\s*[,;})])"
)
PHRASE = re.compile(r"(?=.*[a-zA-Z]{3})[a-zA-Z0-9 ,.'&-]+")
MATRIX = re.compile(r"\\begin\s*\{([pbBvV]?|small)matrix\*?\}|\\begin\s*\{array\}\s*(?:\{[^{}]*\})?")
WORDS = re.compile(r"[a-zA-Z][a-zA-Z' ]*")
POWER = re.compile(r"[0-9]+ *\^")
CHOICE = re.compile(
    r"(?:\\(?:text(?:bf|rm)?|mathrm)\s*\{)?\s*(?:\(([A-E])\)|([A-E])[.:])(?:\s*\}\s*|\s+)"
    r"(?!and\b|or\b|.*\b[A-E][).:])([^\s}].*)"
)
ALL = re.compile(r"(?:all|the|all the) (reals?|integers)(?: numbers)?", re.IGNORECASE)
PLUS_MINUS = re.compile(r"\\(pm|mp)(?![a-zA-Z])")


class UnreadableError(Exception):
    """The text is not in this grammar."""


def compact(text: str) -> str:
    """A text without layout: ``\\text{No  solution}`` is ``nosolution``; the case of one or two letters counts."""
    plain = re.sub(r"[\\{}]|(?<![0-9])\s|\s(?![0-9])", "", TEXT.sub(r"\1", text))
    return plain.lower() if len(plain) > 2 else plain


def as_text(text: str) -> Node:
    return Node("text", name=compact(text))


def read_word(text: str) -> Node | None:
    """Letters alone as a text, one letter as a symbol; None for two small letters, a product, and all else."""
    plain = TEXT.sub(r"\1", text).strip().removesuffix(".")
    if plain.startswith("(") and plain.endswith(")"):
        plain = plain[1:-1].strip()
    if plain.lower() == "no":
        return Node("text", name="no")
    if not WORDS.fullmatch(plain) or plain in SPELLED or (len(plain) == 2 and plain.islower()):
        return None
    if members := ALL.fullmatch(plain):
        return Node("symbol", name="Z" if members[1].lower() == "integers" else "R")
    return as_text(plain) if len(plain) > 1 else Node("symbol", name=plain)


def both_signs(text: str) -> list[str]:
    if text.startswith("\\{") or not PLUS_MINUS.search(text):
        return [text]
    return [PLUS_MINUS.sub(partial(one_sign, upper), text) for upper in (True, False)]


def one_sign(upper: bool, sign: re.Match[str]) -> str:
    return "+" if upper == (sign[1] == "pm") else "-"


def split(text: str, *, thousands: bool) -> list[str]:
    """The items between commas, semicolons, *and* and *or* outside of brackets.

    Args:
        thousands: whether a comma may stand between thousands.
    """
    items, start, at, depth = [], 0, 0, 0
    thousands = thousands and not TIGHT.search(text)
    while at < len(text):
        if depth == 0 and (thousands and (match := COMMAS.match(text, at))):
            at = match.end()
        elif depth == 0 and (match := SEPARATOR.match(text, at)):
            items.append(text[start:at])
            start = at = match.end()
        else:
            token = token_at(text, at)
            depth += opens(token) - closes(token)
            at += len(token)
    items = [item.strip() for item in [*items, text[start:]]]
    if not all(items):
        raise UnreadableError
    return items


def conjunction(text: str) -> str:
    """``and`` or ``or``, whichever joins the items of a text; empty for neither and for both."""
    words = set(CONJUNCTION.findall(text))
    return words.pop() if len(words) == 1 else ""


def token_at(text: str, at: int) -> str:
    match = TOKEN.match(text, at)
    return match[0] if match else ""


def opens(token: str) -> bool:
    return token in OPEN or token == "{" or token.startswith("\\begin")


def closes(token: str) -> bool:
    return token in CLOSE or token == "}" or token.startswith("\\end")


def bracket_end(text: str, at: int) -> int:
    """The position after the bracket that closes the one at ``at``, whatever its kind: ``[0,1)``."""
    depth = 0
    for match in TOKEN.finditer(text, at):
        depth += opens(match[0]) - closes(match[0])
        if depth == 0:
            return match.end()
    raise UnreadableError


def number(text: str) -> Node:
    """A plain number; a decimal's last place is kept as ``ulp``."""
    mantissa, _, exponent = text.lower().partition("e")
    _, point, decimals = mantissa.partition(".")
    scale = Fraction(10) ** int(exponent or 0)
    decimal = bool(point and decimals) or exponent.startswith("-")
    ulp = scale / 10 ** len(decimals) if decimal else Fraction(0)
    return Node("number", value=Fraction(mantissa.removesuffix(".")) * scale, ulp=ulp)


def repeating(integer: str, fixed: str, period: str) -> Fraction:
    """``0.1\\overline{6}`` is exact: (16 - 1) / 90."""
    digits = int((integer or "0") + fixed + period) - int((integer or "0") + fixed)
    return Fraction(digits, int("9" * len(period) + "0" * len(fixed)))


def numeral(match: re.Match[str]) -> Node | None:
    """``1011_2`` is eleven; None if its digits are not of this base, or it has none: ``E_1``."""
    digits, base = match[1], int(match[2] or match[3])
    integer, _, decimals = digits.partition(".")
    if base < 2:
        return None
    try:
        value = Fraction(int(integer + decimals, base), base ** len(decimals))
    except ValueError:
        if digits.replace(".", "").isdigit():
            raise UnreadableError from None  # 1082_2
        return None
    return Node("number", value=value) if digits[0].isdigit() or base > 10 else None


def text_atom(text: str) -> Node:
    """A word inside an expression as one symbol, a number or a letter as itself."""
    if NUMBER.fullmatch(text):
        return number(text)
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z ]*", text):
        raise UnreadableError
    return Node("symbol", name=SYNONYMS.get(text, text))
