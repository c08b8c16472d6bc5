"""The length of a completion: a metric to report or to filter by."""

from __future__ import annotations

from typing import Any


def num_tokens(
    prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: Any
) -> list[float | None]:
    """T, tokens of the completion, its closing token included; (B,)."""
    return [float(len(ids)) for ids in completion_ids]
