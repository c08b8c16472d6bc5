"""Whether a completion ends before the length limit."""

from __future__ import annotations

from typing import Any


def finished(prompts: list[str], completions: list[str], truncated: list[bool], **columns: Any) -> list[float | None]:
    """1 for a completion with its closing token, 0 for one that was cut off; (B,)."""
    return [float(not cut) for cut in truncated]
