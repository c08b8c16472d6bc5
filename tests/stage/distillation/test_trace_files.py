"""Datasets in a record are checked before they are used again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from r1.core import jsonl
from r1.core.errors import STORAGE, UserError
from r1.stage.distillation.traces import load_or_make

ROWS: list[dict[str, Any]] = [{"prompt": f"{n}+1=?", "completion": "等等"} for n in range(9)]


def damage(file: Path, kind: str) -> None:
    content = file.read_bytes()
    if kind in ("gone", "fifo"):
        file.unlink()
        if kind == "fifo":
            os.mkfifo(file)
    else:
        damaged = {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "flip": b"\xff" + content[1:],
            "nested": b"[" * 100_000,
        }
        file.write_bytes(damaged[kind])


@pytest.mark.parametrize("kind", ["cut", "empty", "flip", "gone", "nested", "fifo"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_load_or_make_with_damage_makes_the_same_rows_again(tmp_path: Path, kind: str, suffix: str) -> None:
    file, calls = tmp_path / "traces.jsonl", []

    def make() -> tuple[list[dict[str, Any]], dict[str, int]]:
        calls.append(1)
        return ROWS, {"selected": 9}

    assert load_or_make(file, make) == load_or_make(file, make) == (ROWS, {"selected": 9})
    assert len(calls) == 1
    content = file.read_bytes()
    damage(file.with_suffix(suffix), kind)
    assert load_or_make(file, make) == (ROWS, {"selected": 9})
    assert len(calls) == 2
    assert file.read_bytes() == content


def test_load_or_make_with_a_changed_count_makes_the_card_again(tmp_path: Path) -> None:
    file, card = tmp_path / "traces.jsonl", tmp_path / "traces.json"
    load_or_make(file, lambda: (ROWS, {"selected": 9}))
    content = card.read_bytes()
    card.write_bytes(content.replace(b'"selected": 9', b'"selected": 8'))
    assert load_or_make(file, lambda: (ROWS, {"selected": 9})) == (ROWS, {"selected": 9})
    assert card.read_bytes() == content


def test_load_or_make_that_cannot_make_the_same_rows_raises(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    load_or_make(file, lambda: (ROWS, {}))
    damage(file, "cut")
    with pytest.raises(UserError, match=r"traces.jsonl is damaged") as raised:
        load_or_make(file, lambda: (ROWS[1:], {}))
    assert raised.value.code == STORAGE


@pytest.mark.parametrize("position", range(0, 120, 7))
def test_journal_with_a_flipped_byte_keeps_the_lines_before_it(tmp_path: Path, position: int) -> None:
    file = tmp_path / "samples.jsonl"
    jsonl.append_rows(file, ROWS, checksums=True)
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    rows = jsonl.repair_and_read(file, checksums=True)
    assert rows == ROWS[: len(rows)]
    assert len(rows) < len(ROWS)
    jsonl.append_rows(file, ROWS[len(rows) :], checksums=True)
    assert jsonl.repair_and_read(file, checksums=True) == ROWS
