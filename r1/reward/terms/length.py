"""A soft penalty near the length limit: overlong reward shaping (DAPO, arXiv:2503.14476, eq. 13)."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge

from r1.core.errors import UserError


def length(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    max_completion_length: int,
    *,
    max_length: Annotated[int, Ge(1)] | None,
    buffer: Annotated[int, Ge(1)],
    **columns: Any,
) -> list[float | None]:
    """0 up to ``max_length - buffer`` tokens, then linear down to -1 at ``max_length``, and -1 beyond; (B,).

    Raises:
        UserError: the buffer is longer than the limit, or no completion can become long enough for a penalty.
    """
    limit = max_completion_length if max_length is None else max_length
    if not limit - max_completion_length < buffer <= limit:
        raise UserError(
            "this length penalty would apply to every completion or to none",
            key=".buffer",
            value=buffer,
            expected=f"{max(1, limit - max_completion_length + 1)} to {limit} tokens: the penalty starts at "
            f"{limit} - buffer, and completions have at most {max_completion_length}",
        )
    return [max(-1.0, min(0.0, (limit - buffer - len(ids)) / buffer)) for ids in completion_ids]
