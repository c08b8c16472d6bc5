"""Reads a .wandb file: config, history and exit code of its run."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK, PART = 7, 32768, struct.Struct("<IHB")  # bytes; a part starts with its checksum, length and kind
FULL, FIRST, _, LAST = 1, 2, 3, 4


def wandb_runs(folder: Path) -> list[dict[str, Any]]:
    """Every W&B run below a folder, in order."""
    return [_run(file) for file in sorted(folder.rglob("*.wandb"), key=lambda f: f.stat().st_mtime_ns)]


def _run(file: Path) -> dict[str, Any]:
    run: dict[str, Any] = {"config": {}, "history": [], "exit_code": None}
    for record in map(Record.FromString, records(file.read_bytes())):
        match record.WhichOneof("record_type"):
            case "run" | "config" as kind:
                update = record.run.config.update if kind == "run" else record.config.update
                run["config"] |= {u.key: json.loads(u.value_json) for u in update}
            case "history":
                items = record.history.item
                run["history"].append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
            case "exit":
                run["exit_code"] = record.exit.exit_code
    return run


def records(data: bytes) -> Iterator[bytes]:
    """The complete records in LevelDB's log format, whose parts do not cross the edge of a block."""
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
