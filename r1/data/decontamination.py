"""Training rows that share ten words in a row with a question of an evaluation set.

Words are runs of letters and digits in one case, of scripts without spaces single characters; markup and punctuation do
not count. A question of fewer words is shared by a text that consists of the same words. Rows are read one at a time,
and an evaluation set is kept as one 64-bit hash per sequence of ten words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import yaml  # type: ignore[import-untyped]
from numpy.typing import NDArray

from r1.core.content_hash import file_hash
from r1.core.errors import DATA, UserError
from r1.core.paths import CONF
from r1.data.columns import Row
from r1.data.completion import normalise
from r1.data.conversation import question_text
from r1.data.files import read_file
from r1.data.origin import SourceFile, download, find_splits
from r1.data.rows import Rows
from r1.data.store import remembered

NUM_WORDS = 10
KEY = ".decontaminate"
QUESTIONS = ("prompt", "question", "problem")  # columns of a set without an option, in any case
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(f"[{UNSPACED}]|[^\\W_{UNSPACED}]+")
FACTORS = np.cumprod(np.full(NUM_WORDS, 0x9E3779B97F4A7C15, np.uint64))  # odd, so that no word's hash is lost
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class EvaluationSet:
    """Questions that must not be trained on.

    Attributes:
        column: of the questions; None: the first of ``QUESTIONS`` that a row has.
    """

    name: str
    files: list[SourceFile]
    column: str | None

    def identity(self) -> list[Any]:
        """All that decides the questions, as JSON."""
        return [self.name, self.column, [file_hash(Path(file.path)) for file in self.files]]

    def hashes(self) -> Hashes:
        """Those of all questions, sorted."""
        return np.unique(np.concatenate([sequence_hashes(text) for text in self._questions()]))

    def _questions(self) -> Iterator[str]:
        for file in self.files:
            for location, row in read_file(file.path, KEY, QUESTIONS, file.name):
                if isinstance(row, UserError):
                    raise row
                column = self.column or next((name for name in row if name.lower() in QUESTIONS), "")
                if not row.get(column):
                    message = f"{location}: no question: the columns are {', '.join(row)}"
                    expected = f"a column {self.column or ', '.join(QUESTIONS)}"
                    raise UserError(message, key=KEY, value=self.name, expected=expected, code=DATA)
                yield question_text(row[column])


def evaluation_set(name: str) -> EvaluationSet:
    """A benchmark by the name of its option, as ``data=`` has it; or a dataset's name, a folder, a file or a glob.

    Raises:
        UserError: it cannot be read, or has several splits and none is its held-out one.
    """
    option: dict[str, Any] = option_values(name) if (CONF / "data" / f"{name}.yaml").is_file() else {"path": name}
    if option.get("path", "???") == "???":
        message = "this option is no set of questions that is read"
        raise UserError(message, key=KEY, value=name, expected="math500, aime24, ..., or a path", code=DATA)
    splits = find_splits(option["path"], option.get("name"), option.get("revision"), KEY)
    split = option.get("val_split") or ("test" if "test" in splits else next(iter(splits)))
    if split not in splits or (split != "test" and not option.get("val_split") and len(splits) > 1):
        message = f"the evaluation set has no split `{'test' if len(splits) > 1 else split}`"
        hint = "name the files of one split"
        raise UserError(message, key=KEY, value=name, expected=splits, hint=hint, code=DATA)
    files = download(splits[split], option["path"], KEY)
    return EvaluationSet(name, files, option.get("columns", {}).get("prompt"))


def option_values(option: str) -> dict[str, Any]:
    """The keys of conf/data/OPTION.yaml on top of those of the options that it extends."""
    own: dict[str, Any] = yaml.safe_load((CONF / "data" / f"{option}.yaml").read_text())
    values: dict[str, Any] = {}
    for parent in own.pop("defaults", []):
        if isinstance(parent, str) and parent != "_self_":
            values |= option_values(parent)
    return values | own | {"columns": {**values.get("columns", {}), **own.get("columns", {})}}


def rows_by_set(train: Rows, names: Sequence[str]) -> dict[str, list[int]]:
    """Name of each evaluation set -> the indices of the training rows that share a sequence with it.

    A row that shares one with several counts for the first of them. The result is kept in the cache.
    """
    sets = [evaluation_set(name) for name in names]

    def compute() -> dict[str, list[int]]:
        hashes = {one.name: one.hashes() for one in sets}
        indices: dict[str, list[int]] = {name: [] for name in hashes}
        for i, row in enumerate(train):
            own = np.concatenate([sequence_hashes(text) for text in texts_of(row)])
            name = next((name for name, known in hashes.items() if is_shared(own, known)), None)
            if name is not None:
                indices[name].append(i)
        return indices

    return remembered(train, lambda: ["decontaminate", [one.identity() for one in sets]], compute)


def is_shared(own: Hashes, known: Hashes) -> bool:
    """Whether two sets of hashes, of which ``known`` is sorted, have one in common."""
    positions = np.searchsorted(known, own)
    is_inside = positions < len(known)
    return bool((known[positions[is_inside]] == own[is_inside]).any())


def texts_of(row: Row) -> Iterator[str]:
    """The question and all that can be learned of a row."""
    yield question_text(row["prompt"])
    for name in ("completion", "chosen", "rejected", "messages"):
        if row.get(name):
            yield question_text(row[name])


def sequence_hashes(text: str) -> Hashes:
    """A hash of each ten words in a row; of a shorter text one of all its words."""
    words = WORD.findall(normalise(text).casefold())
    length = min(len(words), NUM_WORDS)
    hashes = np.array([crc32(word.encode()) for word in words], np.uint64) + np.uint64(length)
    windows = np.lib.stride_tricks.sliding_window_view(hashes, length) if length else hashes.reshape(0, 0)
    sums: Hashes = (windows * FACTORS[:length]).sum(axis=1, dtype=np.uint64)
    return sums
