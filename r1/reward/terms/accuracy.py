"""Correctness of the stated answer: the rule-based accuracy reward of DeepSeek-R1 (2.2.2)."""

from __future__ import annotations

from typing import Any

from r1.data.base import Row, Verifier, verify_completions
from r1.data.completion import parse


def accuracy(
    prompts: list[str], completions: list[str], verifier: Verifier, rows: list[Row], **columns: Any
) -> list[float | None]:
    """1 where a completion states exactly one answer and the dataset's verifier accepts it, else 0; (B,).

    None where the row has no gold answer.
    """
    answers = [parse(completion).answer for completion in completions]
    return [None if right is None else float(right) for right in verify_completions(verifier, answers, rows)]
