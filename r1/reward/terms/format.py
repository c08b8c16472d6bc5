"""The rule-based format reward of DeepSeek-R1 (2.2.2): thinking in its tags, then the answer in its tags."""

from __future__ import annotations

from typing import Any

from r1.data.completion import TAGS, Parsed, parse

PARTIAL = 0.5  # the most that a completion without the strict form can earn


def format(prompts: list[str], completions: list[str], *, graded: bool, **columns: Any) -> list[float | None]:
    """1 for the strict form (one think block, one answer block, neither empty, nothing around them); (B,).

    Any other completion earns 0, or, if ``graded``, 0.5 * n / 4 where n of the four tags occur exactly once,
    as a slope for a model that has never seen them. A repeated tag counts nothing: more blocks earn no more.
    """
    return [_credit(parse(completion), graded) for completion in completions]


def _credit(parsed: Parsed, graded: bool) -> float:
    if parsed.strict:
        return 1.0
    return PARTIAL * parsed.tags / len(TAGS) if graded else 0.0
