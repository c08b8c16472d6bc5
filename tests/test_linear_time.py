"""Every reader of text from outside takes time linear in its length, on 40 kinds of hostile text."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from r1.core.console import strip_control_chars
from r1.core.secrets import redact
from r1.data import gsm8k, text
from r1.data.completion import boxed, normalise, parse
from r1.data.template.base import template_prefill, without_opening
from r1.data.verifier import exact, guard, notation
from r1.reward.rubric import Rubric
from r1.reward.terms import duplicates, repetition
from r1.stage.validation import readability
from r1.teacher.api.openai_response import error_message

RUBRIC = Rubric("r", 0, 10, max_chars=1 << 24, seed=0)
READERS: dict[str, Callable[[str], object]] = {
    "parse": parse,
    "parse a block": lambda s: parse(f"<think>x</think><answer>{s}</answer>"),
    "parse a box": lambda s: parse(f"\\boxed{{{s}}}"),
    "boxed": boxed,
    "normalise": normalise,
    "canonical": notation.canonical.__wrapped__,  # without its cache, which makes a second call free
    "value": exact.value,
    "guard": guard.guard,
    "balanced": guard.balanced,
    "words": text.words,
    "calculator": lambda s: gsm8k.CALCULATOR.sub("", s),
    "prefill": template_prefill,
    "without opening": lambda s: without_opening(s, "<think>\n"),
    "quote": RUBRIC.sanitize,
    "judge prompt": lambda s: RUBRIC.prompt(s, s),
    "judge score": RUBRIC.score,
    "repetition": lambda s: repetition.repeated_share(s, 3),
    "duplicates": lambda s: duplicates.ngrams(s, 3),
    "consistency": readability.consistency,
    "reflects": readability.reflects,
    "redact": redact,
    "control characters": strip_control_chars,
    "error body": lambda s: error_message(s.encode(errors="replace")),
}
KINDS = [
    *("(", "[", "{", "<", ")", "}", "([{<", "(!", "\\", "\\\\x", "\u0300\u0316", "\u0344", "e\u0301\u0323"),
    *("\u1100\u1161", "\\boxed{", "\\boxed ", "\\boxed{1}", " ", "\n", " \n", "\t,", "1", "1.", "1,234,"),
    *("123 ", "1=2 ", ",", "^", "^{2", "'", '"', "`", "```", "<think>", "</think>", "<answer>", "</answer>"),
    *("\u200b", "\U0001f600", "\u4e2d", "a", "a ", "$", "$1$", "\\frac", "\\frac{1}{", "\\(", "\\["),
    *("\\text{", "\\begin{cases}", "(score", "score ", "[score]", "wait ", "0.3...", "_", "|", "key="),
    *("{key: ", "https://a:b", "-", "1+", "+-", "&", "~", "\ufdfa", "\xbd", "\x00", "\x1b[", "\u202e"),
    *("\uff12", "<<", "<score>1"),
]  # fmt: skip
QUICK = ["(", "\u0300\u0316", "\\boxed{", " ", "1,234,", "(score", "\\frac{1}{", "<think>"]
MAX_RATIO = 6.0  # of the times for 4n and n characters
LEAST_S = 0.02  # less is noise


def grown(unit: str, size: int) -> str:
    return unit * (size // len(unit))  # no unit is cut: what is not closed may be skipped at once


def seconds(read: Callable[[str], object], value: str) -> float:
    times = []
    for _ in range(3):
        started = time.process_time()
        read(value)
        times.append(time.process_time() - started)
        if times[-1] > 0.2:  # far above noise
            break
    return min(times)


def assert_linear(read: Callable[[str], object], unit: str, most: int) -> None:
    size, before = 1 << 12, float("inf")
    while size <= most:
        current = seconds(read, grown(unit, size))
        # A lower time before is noise, so that it counts as a quarter of the least.
        assert current <= MAX_RATIO * max(before, LEAST_S / 4) or before == float("inf"), f"{size} of {unit!r}"
        size, before = 4 * size, current


@pytest.mark.parametrize("reader", READERS)
def test_reader_takes_linear_time_on_hostile_text(reader: str) -> None:
    for unit in QUICK:
        assert_linear(READERS[reader], unit, 1 << 16)


@pytest.mark.long
@pytest.mark.parametrize("reader", READERS)
def test_reader_takes_linear_time_on_all_kinds_up_to_a_megabyte(reader: str) -> None:
    assert len(KINDS) >= 40
    for unit in KINDS:
        assert_linear(READERS[reader], unit, 1 << 20)


def test_each_module_with_a_pattern_for_text_from_outside_has_a_reader() -> None:
    """The modules below r1/data, r1/reward and r1/stage that compile a pattern, but for those listed with a reason."""
    bounded = {
        "r1/data/verifier": "answers behind the guard, at most 1000 characters, in a process that is killed",
        "r1/data/tiny_open.py": "bounded repeats over the tiny world's own questions",
        "r1/data/arithmetic.py": "the tiny world's own questions",
        "r1/data/files.py": "cells and heads of files, see tests/data/test_files.py",
        "r1/data/hub.py": "names and errors of the Hub",
        "r1/data/template/chat.py": "the template's own special tokens",
    }
    root = Path(__file__).parent.parent
    covered = {read.__module__.replace(".", "/") + ".py" for read in READERS.values()}
    covered |= {"r1/data/gsm8k.py", "r1/data/text.py", "r1/data/template/base.py", "r1/reward/rubric.py"}
    covered |= {"r1/reward/terms/repetition.py"}
    for folder in ("data", "reward", "stage"):
        for file in (root / "r1" / folder).rglob("*.py"):
            name = file.relative_to(root).as_posix()
            calls = (node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
            if any(ast.unparse(call) == "re.compile" for call in calls):
                assert name in covered or any(name.startswith(path) for path in bounded), f"{name}: add a reader"
