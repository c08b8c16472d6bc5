"""Whether a .wandb file has everything: W&B writes it in the background and does not say when it could not."""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

HEADER, BLOCK, PART = 7, 32768, struct.Struct("<IHB")  # bytes; a part is led by its checksum, length and kind
TIMEOUT_S = 5.0
FULL, FIRST, _, LAST = 1, 2, 3, 4


def wait_until_complete(file: Path) -> bool:
    """Whether the file is whole within ``TIMEOUT_S``: W&B says it has finished before the last record is there."""
    end = time.monotonic() + TIMEOUT_S
    while not is_whole(file):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_whole(file: Path) -> bool:
    """Whether the file's last record is that of the run's end."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at import time

    found = deque(records(file.read_bytes()), maxlen=1)
    return bool(found) and bool(Record.FromString(found[0]).WhichOneof("record_type") == "exit")


def records(data: bytes) -> Iterator[bytes]:
    """The whole records in LevelDB's log format: parts that do not cross the edge of a block."""
    position, record = HEADER, b""
    while position + PART.size <= len(data):
        left = BLOCK - position % BLOCK
        _, length, kind = PART.unpack_from(data, position) if left >= PART.size else (0, 0, 0)
        if not kind:  # the rest of the block is empty
            position += left
            continue
        part = data[position + PART.size : position + PART.size + length]
        if len(part) < length:
            return
        record = part if kind in (FULL, FIRST) else record + part
        if kind in (FULL, LAST):
            yield record
        position += PART.size + length
