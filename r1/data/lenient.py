"""Lenient reading: an answer out of prose, where the strict form has none or the verifier does not accept it.

Rewards read strictly (``completion.parse``). Validation reports both: a model that answers right in another form than
the instruction's has a lenient score above its strict one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Literal

from r1.data.completion import boxed, normalise, parse, text_after_thinking

Reading = Literal["strict", "last_number", "boxed", "letter"]
NUMBER = re.compile(  # not an exponent, an index or a part of a word: m^2, x_1, H2O
    r"(?:(?<![\w)\]}])-)?\$?(?<![A-Za-z_^\d.])(?<!\^\{)(?<!_\{)"
    r"(?:\\[dt]?frac\{\d+\}\{\d+\}|\d+(?:,\d{3})*(?!\d)(?:\.\d+)?(?:/\d+)?|\.\d+)(?![A-Za-z_]\d)"
)
BEFORE_LETTER = r"(?:(?i: is)|[\s:*_({\[\"'$`]|\\(?:boxed|text|textbf|mathrm|mathbf|\())*"
LETTERS = (  # the first of these that occurs, where it occurs last
    re.compile(rf"(?i:answer|option|choice){BEFORE_LETTER}([A-Z])(?![\w'])"),
    re.compile(r"(?<!\w)[(\[{]([A-Z])[)\]}]|\*\*([A-Z])[).:]?\*\*|^[^\S\n]*([A-Z])[).:]?[^\S\n]*$", re.MULTILINE),
    re.compile(r"(?<![\w'’])([B-HJ-Z]|A(?! [a-z])|I(?=\s*$))(?![\w'’])"),
)


def lenient_answer(completion: str, reader: Reading) -> str | None:
    """The answer that ``reader`` reads, else the one that is stated.

    It reads the stated answer; where there is none, what follows the thinking; where nothing does, the full text.
    """
    stated = parse(completion).answer
    text = stated or text_after_thinking(completion).strip() or completion
    return READERS[reader](normalise(text)) or stated


def last_number(text: str) -> str | None:
    numbers = deque(NUMBER.finditer(text), maxlen=1)
    return numbers[0][0].replace("$", "") if numbers else None


def last_letter(text: str) -> str | None:
    """The letter behind the last ``answer``, ``option`` or ``choice``; else the last in brackets or bold; else any."""
    for pattern in LETTERS:
        if matches := deque(pattern.finditer(text), maxlen=1):
            return next(str(group) for group in matches[0].groups() if group)
    return None


READERS: dict[Reading, Callable[[str], str | None]] = {
    "strict": lambda _: None,
    "last_number": last_number,
    "boxed": boxed,
    "letter": last_letter,
}
