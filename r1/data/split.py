"""Held-out rows: a property of the question's text, so the same whatever the order, the seed or the machine.

All rows that ask the same question go to the same side, so no question learned from is ever tested on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from r1.core.errors import DATA, UserError

log = logging.getLogger(__name__)
SHARE, MAX_SHARE = 10, 256  # one row in ten is held out where no number is set, and no more than these


def digest(prompt: str) -> bytes:
    """The hash that every split goes by."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()


def is_held_out(problem: str) -> bool:
    """Whether a generated problem is held out: one in ten is, by the hash of its text."""
    return digest(problem)[0] % 10 == 0


def split_of(problem: str) -> str:
    """``val`` or ``train``: the split that a generated problem belongs to."""
    return "val" if is_held_out(problem) else "train"


def hold_out(prompts: Sequence[str], num_val: int | None) -> tuple[list[int], list[int]]:
    """Indices of the training and of the held-out rows, each in order.

    Args:
        num_val: rows to hold out, or a few more where several rows share the last question. None: a tenth of the
            rows, at most 256, so that they never outnumber the training rows.

    Raises:
        UserError: nothing would be left to train on.
    """
    rows_of: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        rows_of.setdefault(prompt, []).append(index)
    groups = [rows_of[prompt] for prompt in sorted(rows_of, key=digest)]
    val = take_share(groups) if num_val is None else take_rows(groups, num_val)
    if len(val) == len(prompts):
        raise UserError(
            f"holding out {num_val or len(val)} rows leaves none of the {len(prompts)} to train on",
            key=".num_val",
            value=num_val,
            expected=f"fewer than the {len(rows_of)} different questions",
            code=DATA,
        )
    held_out = set(val)
    return [index for index in range(len(prompts)) if index not in held_out], sorted(val)


def take_rows(groups: Sequence[list[int]], count: int) -> list[int]:
    """The rows of the first groups that have ``count`` rows together."""
    rows: list[int] = []
    for group in groups:
        if len(rows) >= count:
            break
        rows += group
    return rows


def take_share(groups: Sequence[list[int]]) -> list[int]:
    """The rows of the groups that fit into the default share, one after the other; if none does, the smallest group."""
    most = min(MAX_SHARE, sum(map(len, groups)) // SHARE)
    rows: list[int] = []
    for group in groups:
        if len(rows) + len(group) <= most:
            rows += group
    return rows or min(groups, key=len, default=[])


def exclude_overlap(prompts: Sequence[str], val_prompts: Sequence[str], key: str) -> list[int]:
    """Indices of the training rows whose question is not also held out; the others are counted and logged.

    Raises:
        UserError: all questions are held out too. ``key`` is the config key that gave the held-out rows.
    """
    held_out = set(val_prompts)
    indices = [index for index, prompt in enumerate(prompts) if prompt not in held_out]
    if not indices:
        raise UserError("the held-out rows ask every question of the training rows", key=key, code=DATA)
    if len(indices) < len(prompts):
        log.warning("left out %d training rows whose question is held out", len(prompts) - len(indices))
    return indices


def subsample(prompts: Sequence[str], limit: int | None) -> list[int]:
    """Indices of ``limit`` rows, in order, chosen by the question's hash; all of them if there are fewer."""
    order = sorted(range(len(prompts)), key=lambda index: (digest(prompts[index]), index))
    return sorted(order[:limit])
