"""Correctness of the stated answer: the rule-based accuracy reward of DeepSeek-R1 (2.2.2)."""

from __future__ import annotations

from typing import Any

from r1.data.base import Row, Verifier, score_completions


def accuracy(
    prompts: list[str], completions: list[str], verifier: Verifier, rows: list[Row], **columns: Any
) -> list[float | None]:
    """1 where a completion states exactly one answer and the dataset's verifier accepts it, else 0; (B,).

    A verifier with partial credit gives numbers between. None where the row has no gold answer.
    """
    return score_completions(verifier, completions, rows)
