"""Rows in a memory-mapped Arrow file in the cache of `datasets`, written in one pass over their source.

The file has each row's columns as JSON, which keeps a number's decimals and any mixture of types, and its ``STATS``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from json.encoder import encode_basestring as quote
from pathlib import Path
from shutil import rmtree
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from r1.core.content_hash import content_hashes
from r1.core.errors import STORAGE, UserError
from r1.core.files import open_lock, remove_partial, write_atomic
from r1.data.columns import Row
from r1.data.decimal_float import DecimalFloat
from r1.data.rows import STATS, Kind, KindIndex, Rows

T = TypeVar("T")
BATCH = 1024  # rows of a record batch
MAX_AGE = 30  # days without use after which rows are removed
TYPES = {"<i4": pa.int32(), "<f8": pa.float64(), "|S32": pa.binary(32)}
SCHEMA = pa.schema(
    [pa.field("columns", pa.large_string())]
    + [pa.field(name, TYPES[STATS[name].str]) for name in STATS.names or ()]
)  # fmt: skip
FILE, SUMMARY = "rows.arrow", "summary.json"


class StoredRows:
    """The rows of a folder that ``store_rows`` wrote, as a ``Store``.

    Attributes:
        summary: what the pass over the source returned.
    """

    is_checked = True

    def __init__(self, folder: Path, lock: IO[str]) -> None:
        self.file = folder / FILE
        weakref.finalize(self, lock.close)  # the lock shows that the rows are in use
        content = json.loads((folder / SUMMARY).read_bytes())
        self.summary: dict[str, Any] = content["summary"]
        self.kinds = [Kind(*map(_as_tuple, fields)) for fields in content["kinds"]]
        self.batches = pa.ipc.open_file(pa.memory_map(str(self.file))).read_all().to_batches()
        self.num_rows: int = sum(batch.num_rows for batch in self.batches)

    def __len__(self) -> int:
        return self.num_rows

    def read(self, index: int) -> Row:
        row: Row = DECODER.decode(self.batches[index // BATCH].column(0)[index % BATCH].as_py())
        return row

    def stats(self, name: str) -> NDArray[Any]:
        of_batches = [batch.column(name) for batch in self.batches]
        buffers = [np.frombuffer(column.buffers()[1], STATS[name], len(column)) for column in of_batches]
        return np.concatenate(buffers) if buffers else np.empty(0, STATS[name])


DECODER = json.JSONDecoder(parse_float=DecimalFloat)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def cache_folder() -> Path:
    """r1's folder in the cache of `datasets`."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets").expanduser() / "r1"


@cache
def code_hash() -> str:
    """sha256 over the code that makes rows: another version writes them again."""
    hashes = content_hashes(Path(__file__).parent)
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def store_rows(identity: Any, read: Callable[[dict[str, Any]], Iterable[Row]]) -> StoredRows:
    """The rows of a source, from the cache if it was read before, in this process or another.

    Args:
        identity: all that decides the rows, as JSON.
        read: one pass over the rows, which fills the dict that it gets with a summary.

    Raises:
        UserError: the cache cannot be written.
    """
    root = cache_folder()
    folder = root / hashlib.sha256(json.dumps([code_hash(), identity], sort_keys=True).encode()).hexdigest()[:32]
    try:
        root.mkdir(parents=True, exist_ok=True)
        while (stored := open_store(folder)) is None:
            with open_lock(root / f"{folder.name}.lock", os.O_RDWR | os.O_CREAT) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # other ranks wait for the first one's pass
                if not is_complete(folder):
                    write_store(folder, read)
                    remove_unused(root)
    except (OSError, pa.ArrowException) as error:
        message = f"the cache of datasets cannot be written: {error}"
        raise UserError(message, key="HF_DATASETS_CACHE", value=str(root), code=STORAGE) from None
    return stored


def open_store(folder: Path) -> StoredRows | None:
    """The rows of a folder, which then counts as used; None: it has none."""
    try:
        lock = open_lock(folder / FILE, os.O_RDONLY)
    except OSError:
        return None
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not is_complete(folder):
        lock.close()
        return None
    with suppress(OSError):  # another user's cache
        os.utime(folder / SUMMARY)
    return StoredRows(folder, lock)


def is_complete(folder: Path) -> bool:
    """Whether a pass has ended and its file has all its bytes."""
    try:
        size: int = json.loads((folder / SUMMARY).read_bytes())["bytes"]
        return size == (folder / FILE).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_store(folder: Path, read: Callable[[dict[str, Any]], Iterable[Row]]) -> None:
    """Write one pass's rows, under another name until all are there; the caller has locked the folder."""
    remove_partial(folder.parent, folder.name)
    partial = folder.with_name(f"{folder.name}.tmp.{os.getpid()}")
    partial.mkdir()
    summary, kinds = dict[str, Any](), KindIndex()
    try:
        with pa.OSFile(str(partial / FILE), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for batch in record_batches(read(summary), kinds):
                writer.write_batch(batch)
        content = {"bytes": (partial / FILE).stat().st_size, "summary": summary, "kinds": list(kinds.numbers)}
        write_atomic(partial / SUMMARY, json.dumps(content))
        rmtree(folder, ignore_errors=True)  # a damaged one
        partial.replace(folder)
    finally:
        rmtree(partial, ignore_errors=True)


def remove_unused(root: Path) -> None:
    """Remove rows and results of checks that were not used for ``MAX_AGE`` days; rows that a process has open stay."""
    oldest = time.time() - MAX_AGE * 24 * 3600
    for path in (*root.glob("[0-9a-f]" * 32 + "*/"), *(root / "checks").glob("*.json")):
        used = path / SUMMARY if (path / SUMMARY).exists() else path
        with suppress(OSError):  # it is in use, or another process has removed it
            if used.stat().st_mtime < oldest:
                remove_store(path) if path.is_dir() else path.unlink()


def remove_store(folder: Path) -> None:
    """Raises: OSError: a process has the rows open."""
    with open_lock(folder / FILE, os.O_RDWR | os.O_CREAT) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / SUMMARY).unlink(missing_ok=True)  # first: who opens the file now waits, and then looks for this one
        rmtree(folder)


def record_batches(rows: Iterable[Row], kinds: KindIndex) -> Iterator[pa.RecordBatch]:
    rows = iter(rows)
    while part := list(islice(rows, BATCH)):
        texts = [to_json(row) for row in part]
        stats = np.array([kinds.stats(row, text) for row, text in zip(part, texts, strict=True)], STATS)
        columns = [pa.array(texts, pa.large_string())]
        columns += [fixed_width(stats[name]) for name in STATS.names or ()]
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def fixed_width(values: NDArray[Any]) -> pa.Array:
    """Numbers or digests as an Arrow array without nulls."""
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(TYPES[values.dtype.str], len(values), [None, buffer])


def to_json(value: Any) -> str:
    """A row as JSON. A decimal keeps its text: the exponent shows that it is one, where no point does."""
    if isinstance(value, str):
        return quote(value)
    if type(value) is int:
        return str(value)
    if isinstance(value, DecimalFloat):
        return value.text if set(value.text) & set(".eE") else f"{value.text}e0"
    if isinstance(value, dict):
        return "{" + ",".join(f"{quote(name)}:{to_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(to_json, value)) + "]"
    return json.dumps(value)


def remembered(rows: Rows, question: Callable[[], Any], compute: Callable[[], T]) -> T:
    """The result of a check of all rows, which is JSON; of stored rows it is kept in the cache.

    Args:
        question: returns all that decides the result besides the rows, as JSON.
    """
    if not rows.are_checked:
        return compute()
    key = hashlib.sha256(json.dumps([code_hash(), question(), rows.digest()], sort_keys=True).encode()).hexdigest()
    file = cache_folder() / "checks" / f"{key}.json"
    try:
        known: T = json.loads(file.read_bytes())
        os.utime(file)
        return known
    except (OSError, ValueError):
        result = compute()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(result))
    return result
