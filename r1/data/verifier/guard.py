"""A static guard: which answers must never be computed.

``9^{9^9}`` is seven characters and freezes any interpreter, timeouts included: one operation on numbers of
millions of digits cannot be interrupted. So the size of the numbers that an answer spells out is bounded
before anything is computed. Unlike a timeout, the verdict depends on the text alone and is the same on
every machine.
"""

from __future__ import annotations

import math
import re

MAX_CHARS = 1000
MAX_DEPTH = 12  # parse time doubles with every few levels
MAX_COUNTS = {r"[,&]": 64, r"[-+|]": 128, r"\\[a-zA-Z]+": 64, r"\^|\*\*": 64, r"=": 8}
MAX_DIGITS = 20_000.0  # of the largest number that may have to be computed
MAX_EXPONENT = 10_000.0
MAX_LOG10 = 6.0  # arguments above 10^6 need not be told apart: all are refused

INVISIBLE = re.compile(r"\s+|\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\[,;:! ]|~|\\q?quad(?![a-zA-Z])")
UNEVALUATED = re.compile(r"\\(?:sum|prod|i*int|oint|lim)(?![a-zA-Z])")
POWER = re.compile(r"\^|\*\*")
ATOM = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|\\[a-zA-Z]+|\\?.", re.DOTALL)
OPEN, CLOSE = frozenset("{(["), frozenset("})]")
FENCES = frozenset(["|", "\\lfloor", "\\lceil", "\\lvert", "\\vert", "\\{"])
FACTORIALS = frozenset(["\\binom", "\\dbinom", "\\tbinom", "\\choose", "\\Gamma"])
CONSTANTS = {"e": 0.5, "\\pi": 0.5}  # log10, rounded up


def guard(answer: str) -> str | None:
    """Why ``answer`` is refused, in one word, or None. Never raises; microseconds."""
    if len(answer) > MAX_CHARS:
        return "too_long"
    if not balanced(answer):
        return "unbalanced"
    if any(len(re.findall(pattern, answer)) > most for pattern, most in MAX_COUNTS.items()):
        return "too_many_terms"
    if UNEVALUATED.search(answer):
        return "unevaluated"  # an answer states a value, not the sum or integral to work out
    text = INVISIBLE.sub("", answer).replace("\\exp", "e^")
    if re.search(r"[0-9][eE][+-]?[0-9]{4,}", text) or digits(text) > MAX_DIGITS:
        return "too_large"
    return None


def balanced(text: str) -> bool:
    """Whether brackets close what was opened, ``MAX_DEPTH`` deep at most (``[0,1)`` mixes kinds)."""
    depth = braces = 0
    for char in text:
        depth += (char in OPEN) - (char in CLOSE)
        braces += (char == "{") - (char == "}")
        if depth > MAX_DEPTH or depth < 0 or braces < 0:
            return False
    return depth == braces == 0


def digits(text: str) -> float:
    """An upper bound on the digits of any number that evaluating ``text`` (balanced, no spaces) can build.

    It is the product of all literals (which bounds their sum too), each with the powers, factorials and
    binomials written on it. Variables count as 1: their powers are not multiplied out.
    """
    total = last = 0.0
    at, joined = 0, False  # joined: the atom before was a bracket; \frac{a}{b} is one operand
    while at < len(text):
        if power := POWER.match(text, at):
            at, exponent = operand(text, power.end())
            factor = 10 ** min(digits(exponent), MAX_LOG10)
            last = last * factor if factor <= MAX_EXPONENT else math.inf
            total += last
            continue
        start, (at, word) = at, atom(text, at)
        if word in OPEN:
            at = closing(text, start)
            inside = digits(text[start + 1 : at - 1])
            last, joined = (last if joined else 0.0) + inside, True
        else:
            if word in FACTORIALS:
                end = arguments(text, at)
                last = factorial(digits(text[at:end]) + (total if word == "\\choose" else 0.0))
            else:
                last = inside = factorial(last) if word == "!" else size(word)
            inside, joined = last, False
        total += inside
    return total


def size(word: str) -> float:
    """log10 of one literal or symbol, rounded up."""
    if word[0] in ".0123456789" and word != ".":
        mantissa, _, exponent = word.lower().partition("e")
        number = float(mantissa) if "." in mantissa else int(mantissa)
        return max(0.31, math.log10(max(1, number)) + max(0, int(exponent or 0)))  # 0.31 > log10(2): a sum of ones
    return CONSTANTS.get(word, 0.0)


def factorial(log10: float) -> float:
    """A bound on the digits of n!, for the log10 of n."""
    return 10**log10 * log10 if log10 < MAX_LOG10 else math.inf


def operand(text: str, at: int) -> tuple[int, str]:
    """The exponent that starts at ``at``, all powers, factorials and arguments on it: (its end, its text)."""
    start = at
    while at < len(text):
        while at < len(text) and text[at] in "+-":
            at += 1
        begin, (at, word) = at, atom(text, at)
        if word in FENCES:
            return len(text), text[start:]  # where it closes is not worth finding: take everything
        if word in OPEN:
            at = closing(text, begin)
        while word.startswith("\\") and at < len(text) and text[at] in OPEN:
            at = closing(text, at)
        while text.startswith("!", at):
            at += 1
        if not (power := POWER.match(text, at)):
            break
        at = power.end()
    return at, text[start:at]


def arguments(text: str, at: int) -> int:
    """Where the two arguments after a ``\\binom`` end."""
    for _ in range(2):
        if at < len(text):
            at = closing(text, at) if text[at] in OPEN else atom(text, at)[0]
    return at


def atom(text: str, at: int) -> tuple[int, str]:
    """The literal, command or character at ``at``: (its end, its text); empty at the end of the text."""
    match = ATOM.match(text, at)
    return (match.end(), match.group()) if match else (at, "")


def closing(text: str, at: int) -> int:
    """The position after the bracket that closes the one at ``at``."""
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] in OPEN) - (text[end] in CLOSE)
        if depth == 0:
            return end + 1
    return len(text)
