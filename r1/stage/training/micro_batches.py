"""Micro-batches by their number of tokens: first fit by length, and as many on every device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class _Bin:
    """Rows of one micro-batch.

    Attributes:
        tokens: that go through the model for them.
        prompts: numbers of the prompts among them that are counted already.
    """

    rows: list[int] = field(default_factory=list)
    tokens: int = 0
    prompts: set[int] = field(default_factory=set)


def rows_by_tokens(
    lengths: Sequence[int], max_tokens: int, is_packed: bool, prompts: Sequence[tuple[int, int]] | None = None
) -> list[list[int]]:
    """The rows of each micro-batch: rows in falling order of length, each into the first one with room (Johnson 1973).

    A row of more than ``max_tokens`` gets a micro-batch of its own.

    Args:
        lengths: tokens of each row, with its prompt.
        is_packed: no padding goes through the model. False: all rows of a micro-batch count as its longest one.
        prompts: number and length of each row's prompt, where a prompt goes through a packed micro-batch once.
    """
    bins: list[_Bin] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        prompt, shared = prompts[row] if prompts and is_packed else (row, 0)
        for target in bins:
            added = lengths[row] - shared * (prompt in target.prompts) if is_packed else lengths[target.rows[0]]
            if target.tokens + added <= max_tokens:
                break
        else:
            added, target = lengths[row], _Bin()
            bins.append(target)
        target.rows.append(row)
        target.prompts.add(prompt)
        target.tokens += added
    return [sorted(target.rows) for target in bins]


def split_to(count: int, parts: Sequence[Sequence[int]]) -> list[list[int]]:
    """``count`` parts or as many as there are, by halving the one with the most rows; empty ones where none has two."""
    result = [list(part) for part in parts]
    while len(result) < count:
        largest = max(result, key=len, default=[])
        half = (len(largest) + 1) // 2
        result.append(largest[half:])
        del largest[half:]
    return result
