"""The file of answers: whatever cuts or damages it, every undamaged line is read, and new lines are appended."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1.core.errors import CONFIG, STORAGE, Interrupted, UserError
from r1.rollout.base import no_op
from r1.stage.distillation.answer_cache import AnswerCache, decode_line, encode_line

ROWS = [{"key": f"k{i}", "answer": {"text": 'é\u2028\n"crc": "' * i}} for i in range(4)]
ALL_LINES = b"".join(map(encode_line, ROWS))


def open_cache(file: Path) -> AnswerCache:
    return AnswerCache(file, "stage.store", no_op)


def read_rows(file: Path) -> list[dict[str, Any]]:
    with open_cache(file) as cache:
        return list(cache.rows())


def test_added_rows_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "new" / "answers.jsonl"
    with open_cache(file) as cache:
        assert list(cache.rows()) == []
        cache.add(ROWS[:1])
        cache.add(ROWS[1:])
        assert list(cache.rows()) == ROWS
    assert read_rows(file) == ROWS
    assert file.read_bytes() == ALL_LINES
    assert file.stat().st_mode & 0o777 == 0o600


def test_line_encoding_matches_a_hand_computed_checksum() -> None:
    assert encode_line({"key": "a"}) == b'{"key": "a", "crc": "8a3bca2d"}\n'  # zlib.crc32(b'{"key": "a"}')
    assert decode_line(b'{"key": "a", "crc": "8a3bca2d"}\n') == {"key": "a"}
    assert decode_line(b'{"key": "b", "crc": "8a3bca2d"}\n') is None
    assert decode_line(b'{"key": "a", "crc": "8a3bca2d"}') is None
    assert decode_line(b"\n") is None


def test_file_cut_at_any_byte_gives_its_complete_lines(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    for cut in range(len(ALL_LINES) + 1):
        file.write_bytes(ALL_LINES[:cut])
        complete = ALL_LINES[:cut].count(b"\n")
        with open_cache(file) as cache:
            assert list(cache.rows()) == ROWS[:complete]
            cache.add(ROWS[complete:])
        assert file.read_bytes() == ALL_LINES


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(len(b'{"key": "'), len(ALL_LINES) - 2), bit=st.integers(0, 7))
def test_flipped_bit_loses_its_line_only(tmp_path: Path, offset: int, bit: int) -> None:
    file, damaged = tmp_path / "answers.jsonl", bytearray(ALL_LINES)
    damaged[offset] ^= 1 << bit
    file.write_bytes(damaged)
    hit = {ALL_LINES[:offset].count(b"\n")}
    if damaged[offset : offset + 1] != ALL_LINES[offset : offset + 1] == b"\n":
        hit.add(min(hit) + 1)  # two lines have become one
    assert read_rows(file) == [row for i, row in enumerate(ROWS) if i not in hit]


def test_damaged_lines_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_bytes(ALL_LINES.replace(b"k1", b"K1"))
    assert [row["key"] for row in read_rows(file)] == ["k0", "k2", "k3"]
    assert "answers.jsonl: damaged lines are skipped: 2\n" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["# Notes\n", '{"prompt": "x"}', "\n", '{"key":"compact"}\n'])
def test_other_file_is_rejected_and_left_unchanged(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match="not a store of answers") as caught:
        open_cache(file)
    assert (caught.value.key, caught.value.value, caught.value.code) == ("stage.store", str(file), CONFIG)
    assert file.read_text() == text


def test_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this is a folder"):
        open_cache(tmp_path)


def test_unwritable_path_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as caught, open_cache(tmp_path / "file" / "answers.jsonl"):
        pass
    assert caught.value.code == STORAGE


def test_full_disk_is_a_storage_error() -> None:
    with open_cache(Path("/dev/full")) as cache, pytest.raises(UserError, match="No space left") as caught:
        cache.add(ROWS)
    assert caught.value.code == STORAGE
    assert "resume=auto" in caught.value.hint


def test_second_process_waits_and_reads_the_rows_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, rows = tmp_path / "answers.jsonl", []
    with open_cache(file) as cache:
        second = threading.Thread(target=lambda: rows.extend(read_rows(file)))
        second.start()
        time.sleep(0.25)
        assert second.is_alive()
        cache.add(ROWS)
    second.join()
    assert rows == ROWS
    assert capsys.readouterr().err.count("waiting for another run") == 1


def test_stop_request_while_waiting_raises_and_closes_the_file(tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted(15)

    descriptors = len(os.listdir("/proc/self/fd"))
    with open_cache(tmp_path / "a"), pytest.raises(Interrupted), AnswerCache(tmp_path / "a", "stage.store", stop):
        pass
    assert len(os.listdir("/proc/self/fd")) == descriptors
