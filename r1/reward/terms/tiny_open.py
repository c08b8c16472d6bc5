"""The exact preference for an answer to a question of ``data=tiny_open``, for reports."""

from __future__ import annotations

from typing import Any

from r1.data.tiny_open import quality


def tiny_open(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """The hidden preference, 0 to 1; None for a question of another kind; (B,)."""
    return [quality(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
