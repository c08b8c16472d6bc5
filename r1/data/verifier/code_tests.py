"""Tests of a programming task in the public formats, and when an output is the expected one.

``{"inputs": [...], "outputs": [...], "fn_name": name}`` is APPS', TACO's and PRIME's, a list of ``{"input": text,
"output": text, "testtype": "stdin" or "functional"}`` LiveCodeBench's. Without a function's name, a test is what the
program reads on standard input and prints; with one, the arguments and the result of a call.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

TOLERANCE = Decimal("1e-6")  # of a number that is expected as a decimal; absolute below 1
MAX_DIGITS = 400  # of a number; longer ones are compared as text
DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class CodeTests:
    """Inputs and expected outputs of T tests: texts, or the arguments and the results of ``fn_name``."""

    fn_name: str | None
    inputs: list[Any]
    outputs: list[Any]


def read_tests(text: str, metadata: Any = None) -> CodeTests | None:
    """The tests that a gold answer holds; None: it holds none in a known format.

    Args:
        metadata: LiveCodeBench's column, JSON whose ``func_name`` names the function of functional tests.
    """
    try:
        return _tests(json.loads(text), json.loads(metadata) if isinstance(metadata, str) else metadata)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _tests(value: Any, metadata: Any) -> CodeTests | None:
    if isinstance(value, list):
        names = {_fn_name(case, metadata or {}) for case in value}
        if len(names) > 1:
            return None
        inputs, outputs = ([case[name] for case in value] for name in ("input", "output"))
        value = {"inputs": inputs, "outputs": outputs, "fn_name": names.pop() if names else None}
    inputs, outputs, fn_name = value["inputs"], value["outputs"], value.get("fn_name")
    if not (isinstance(inputs, list) and isinstance(outputs, list) and 0 < len(inputs) == len(outputs)):
        return None
    if not fn_name:
        return CodeTests(None, list(map(_lines, inputs)), list(map(_lines, outputs)))
    return CodeTests(str(fn_name), list(map(_arguments, inputs)), list(map(_result, outputs)))


def _fn_name(case: dict[str, Any], metadata: dict[str, Any]) -> str | None:
    """The function that a test of LiveCodeBench calls, which its own metadata or the row's name."""
    is_functional = case.get("testtype") == "functional"
    return case.get("fn_name") or (case.get("metadata") or metadata)["func_name"] if is_functional else None


def _lines(text: Any) -> str:
    """APPS has a list of lines for some tests."""
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _arguments(text: Any) -> list[Any]:
    """A list, or a JSON value per line. A dictionary's whole numbers as keys have become text in JSON."""
    values = [json.loads(line) for line in text.splitlines() if line.strip()] if isinstance(text, str) else list(text)
    return [_with_int_keys(value) if isinstance(value, dict) else value for value in values]


def _with_int_keys(value: dict[str, Any]) -> dict[Any, Any]:
    return {int(key): v for key, v in value.items()} if all(map(INTEGER.fullmatch, value)) else value


def _result(text: Any) -> Any:
    """A value, or its JSON text."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text


def passes(tests: CodeTests, index: int, output: str) -> bool:
    """Whether the output of a test is the expected one: its text, or of a function the JSON of its result."""
    expected = tests.outputs[index]
    if tests.fn_name is None:
        return same_text(expected, output)
    try:
        result = json.loads(output)
        # APPS wraps the result of a call in a list
        wrapped = isinstance(expected, list) and len(expected) == 1 and same_value(expected[0], result)
        return wrapped or same_value(expected, result)
    except (ValueError, RecursionError):
        return False


def same_text(expected: str, output: str) -> bool:
    """The same words in the same lines; empty lines and the space between words do not count."""
    left, right = ([line.split() for line in text.splitlines() if line.strip()] for text in (expected, output))
    return left == right or (len(left) == len(right) and all(map(_same_words, left, right)))


def _same_words(expected: Sequence[str], output: Sequence[str]) -> bool:
    return len(expected) == len(output) and all(map(_same_word, expected, output))


def _same_word(expected: str, output: str) -> bool:
    """The same text, or the same number if one is written as a decimal; a whole number only if it is met exactly."""
    if expected == output:
        return True
    words = (expected, output)
    if (
        max(map(len, words)) > MAX_DIGITS
        or not all(map(DECIMAL.fullmatch, words))
        or all(map(INTEGER.fullmatch, words))
    ):
        return False
    left, right = map(Decimal, words)
    return left == right or (
        INTEGER.fullmatch(expected) is None and abs(left - right) <= TOLERANCE * max(Decimal(1), abs(left))
    )


def same_value(expected: Any, result: Any) -> bool:
    """Equal JSON values; numbers of which the expected one is a float, nearly."""
    if isinstance(expected, list) and isinstance(result, list):
        return len(expected) == len(result) and all(map(same_value, expected, result))
    if isinstance(expected, dict) and isinstance(result, dict):
        return expected.keys() == result.keys() and all(same_value(expected[key], result[key]) for key in expected)
    if isinstance(expected, float) and isinstance(result, int | float):
        return math.isclose(expected, result, rel_tol=float(TOLERANCE), abs_tol=float(TOLERANCE))
    return type(expected) is type(result) and bool(expected == result)
