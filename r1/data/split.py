"""Held-out rows: a property of the question's text, so the same whatever the order, the seed or the machine.

All rows that ask the same question go to the same side, so no question learned from is ever tested on. Questions are
compared by their hashes: where a function takes ``Questions``, texts are hashed first.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r1.core.errors import DATA, UserError
from r1.data.columns import Row
from r1.data.conversation import question_text

log = logging.getLogger(__name__)
SHARE, MAX_SHARE = 10, 256  # one row in ten is held out where no number is set, and no more than these
Hashes = NDArray[np.bytes_]  # (N,) sha256
Questions = Hashes | Sequence[str]
Indices = NDArray[np.int64]


def digest(prompt: str) -> bytes:
    """The hash that every split goes by."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()


def question_hash(row: Row) -> bytes:
    """The hash of a row's question, which is text or a list of messages."""
    prompt: Any = row.get("prompt")
    try:
        return digest(question_text(prompt))
    except (LookupError, TypeError):  # no conversation: ``check_row`` has the message
        return digest(json.dumps(prompt, default=str))


def hashes_of(questions: Questions) -> Hashes:
    return questions if isinstance(questions, np.ndarray) else np.array([digest(text) for text in questions], "S32")


def is_held_out(problem: str) -> bool:
    """Whether a generated problem is held out: one in ten is, by the hash of its text."""
    return digest(problem)[0] % 10 == 0


def split_of(problem: str) -> str:
    """``val`` or ``train``: the split that a generated problem belongs to."""
    return "val" if is_held_out(problem) else "train"


def hash_words(questions: Hashes) -> NDArray[np.uint64]:
    """(N, 4) the hashes as numbers, which sort as their bytes do."""
    return np.ascontiguousarray(questions).view(">u8").reshape(-1, 4).astype(np.uint64)


def hash_order(questions: Hashes) -> Indices:
    """The rows in the order of their questions' hashes; those of one question stay in order."""
    return np.lexsort(hash_words(questions).T[::-1])


def hold_out(questions: Questions, num_val: int | None) -> tuple[Indices, Indices]:
    """Indices of the training and of the held-out rows, each in order.

    Args:
        num_val: rows to hold out, or a few more where several rows share the last question. None: a tenth of the
            rows, at most 256, so that they never outnumber the training rows.

    Raises:
        UserError: nothing would be left to train on.
    """
    hashes = hashes_of(questions)
    val = held_out_rows(hashes, num_val)
    if len(val) == len(hashes):
        raise UserError(
            f"holding out {num_val or len(val)} rows leaves none of the {len(hashes)} to train on",
            key=".num_val",
            value=num_val,
            expected=f"fewer than the {len(set(hashes.tolist()))} different questions",
            code=DATA,
        )
    is_train = np.ones(len(hashes), bool)
    is_train[val] = False
    return np.flatnonzero(is_train), val


def held_out_rows(hashes: Hashes, num_val: int | None) -> Indices:
    """The rows that ``hold_out`` holds out, in order; these may be all."""
    order = hash_order(hashes)
    ordered = hash_words(hashes[order])
    starts = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]) if len(order) else order
    sizes = np.diff([*starts, len(order)])
    groups = take_share(sizes) if num_val is None else take_rows(sizes, num_val)
    return np.sort(np.concatenate([order[:0], *(order[starts[g] : starts[g] + sizes[g]] for g in groups)]))


def take_rows(sizes: Indices, count: int) -> Indices:
    """The first groups that have ``count`` rows together."""
    return np.arange(np.searchsorted(np.cumsum(sizes), count) + 1 if len(sizes) else 0)[: len(sizes)]


def take_share(sizes: Indices) -> list[int]:
    """The groups that fit into the default share, one after the other; if none does, the smallest group."""
    room = min(MAX_SHARE, int(sizes.sum()) // SHARE)
    groups = []
    for group, size in enumerate(sizes):
        if not room:
            break
        if size <= room:
            groups.append(group)
            room -= int(size)
    return groups or [int(np.argmin(sizes))] if len(sizes) else []


def exclude_overlap(questions: Questions, held_out: Questions, key: str) -> Indices:
    """Indices of the training rows whose question is not also held out; the others are counted and logged.

    Raises:
        UserError: all questions are held out too. ``key`` is the config key that gave the held-out rows.
    """
    hashes, of_val = hashes_of(questions), hashes_of(held_out)
    may_overlap = np.flatnonzero(np.isin(hash_words(hashes)[:, 0], hash_words(of_val)[:, 0]))
    known = set(of_val.tolist())
    is_train = np.ones(len(hashes), bool)
    is_train[may_overlap] = [question not in known for question in hashes[may_overlap].tolist()]
    indices = np.flatnonzero(is_train)
    if not len(indices):
        raise UserError("the held-out rows ask every question of the training rows", key=key, code=DATA)
    if len(indices) < len(hashes):
        log.warning("left out %d training rows whose question is held out", len(hashes) - len(indices))
    return indices


def subsample(questions: Questions, limit: int | None) -> Indices:
    """Indices of ``limit`` rows, in order, chosen by the question's hash; all of them if there are fewer."""
    return np.sort(hash_order(hashes_of(questions))[:limit])
