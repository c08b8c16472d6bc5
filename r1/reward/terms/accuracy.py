"""Is the one stated answer right? The rule-based accuracy reward of DeepSeek-R1 (2.2.2)."""

from __future__ import annotations

from typing import Any

from r1.completion import parse
from r1.data.base import Row, Verifier, has_answer, verdicts


def accuracy(
    prompts: list[str], completions: list[str], verifier: Verifier, rows: list[Row], **columns: Any
) -> list[float | None]:
    """1 where a completion states exactly one answer and the dataset's verifier accepts it, else 0; (B,).

    None, which does not apply, where the row has no gold ``answer``.
    """
    answers = [parse(completion).answer for completion in completions]
    found = zip(verdicts(verifier, answers, rows), rows, strict=True)
    return [float(right) if has_answer(row) else None for right, row in found]
