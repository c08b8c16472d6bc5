"""The mathematical verifier: ``\\frac{1}{2}``, ``0.5`` and ``2^{-1}`` are the same answer.

Three layers, cheapest first: the exact verifier; a static guard against answers that freeze a computer
algebra system; math-verify (Kydlíček, https://github.com/huggingface/math-verify) for the rest. math-verify
is good at comparing and too willing at reading: of "17 42" it makes 59, of "17=42" it takes 42. So it gets
one extracted answer, and only if that reads as one expression.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from functools import lru_cache
from typing import Any

from r1.data.base import Row
from r1.data.verifier.exact import clean, exact
from r1.data.verifier.guard import guard

SECONDS = 2  # for one parse and for one comparison; math-verify counts in whole seconds
SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*[0-9]\s*[0-9]")
TWO_NUMBERS = re.compile(r"[0-9.](?:\s|~|\\[,;: ]|\\q?quad(?![a-z]))+[0-9.]")  # 17 42
HEDGE = r"\b(?:or|and|not|but|no|maybe|perhaps|nor)\b"  # math-verify drops remarks: 42 \text{ or not}
REMARK = re.compile(rf"\\(?:text|mathrm|textrm|mbox)\{{[^{{}}]*{HEDGE}[^{{}}]*\}}\s*$")


def math(answer: str, row: Row) -> bool:
    """Whether ``answer`` is mathematically equal to ``row["answer"]``. No answer makes it raise or hang."""
    return exact(answer, row) or verify_math(str(row["answer"]), answer)


def verify_math(gold: str, answer: str) -> bool:
    """The symbolic layers alone: a pure function of two texts, but for its time limit.

    Raises:
        RuntimeError: off the main thread, where math-verify's time limits (SIGALRM) cannot work.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("verify_math needs the main thread: its time limits use SIGALRM")
    gold, answer = clean(gold), clean(answer)
    if not (readable(gold) and readable(answer)):
        return False
    return all(same(gold, part) for part in claims(gold, answer))


def readable(text: str) -> bool:
    """Whether a cleaned text is one expression that is safe to compute."""
    if not text or guard(text) is not None or "$" in text or "\\boxed" in text:
        return False
    return not TWO_NUMBERS.search(SHORT_FRACTION.sub("", text)) and not REMARK.search(text)


def claims(gold: str, answer: str) -> list[str]:
    """What must all equal ``gold``: the answer and, if it is a chain such as ``17=42``, each number in it."""
    *left, right = answer.split("=") if "=" not in gold else [answer]
    numbers = [side for side in left if not re.search("[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", side))]
    return [answer, *numbers, right] if numbers else [answer]


def same(gold: str, answer: str) -> bool:
    """math-verify's verdict on two single expressions."""
    parse, verify, options, timeout = library()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sympy's, about its own future
            parsed = [parse(wrapped(text), parsing_timeout=SECONDS, **options) for text in (gold, answer)]
            return bool(all(parsed) and verify(*parsed, timeout_seconds=SECONDS))
    except (Exception, timeout):  # whatever an answer does to the parser, it is only a wrong answer
        return False


def wrapped(text: str) -> str:
    """Math mode; math-verify reads a percent sign only behind it."""
    number = re.sub(r"\s*\\?%$", "", text)
    return f"${number}$" + ("%" if number != text else "")


@lru_cache(maxsize=1)
def library() -> tuple[Any, Any, dict[str, Any], type[BaseException]]:
    from math_verify import LatexExtractionConfig, parse, verify
    from math_verify.errors import TimeoutException

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it would log hostile answers in full
    options = {"extraction_config": [LatexExtractionConfig()], "fallback_mode": "no_fallback"}
    return parse, verify, options, TimeoutException
