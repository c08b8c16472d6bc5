"""The store: wherever it was cut or damaged, what is whole is there, and what is added comes behind it."""

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
WHOLE = b"".join(map(encode_line, ROWS))


def opened(file: Path) -> AnswerCache:
    return AnswerCache(file, "stage.store", no_op)


def held(file: Path) -> list[dict[str, Any]]:
    with opened(file) as store:
        return list(store.rows())


def test_what_is_added_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "new" / "answers.jsonl"
    with opened(file) as store:
        assert list(store.rows()) == []
        store.add(ROWS[:1])
        store.add(ROWS[1:])
        assert list(store.rows()) == ROWS
    assert held(file) == ROWS
    assert file.read_bytes() == WHOLE
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_line_by_hand() -> None:
    assert encode_line({"key": "a"}) == b'{"key": "a", "crc": "8a3bca2d"}\n'  # zlib.crc32(b'{"key": "a"}')
    assert decode_line(b'{"key": "a", "crc": "8a3bca2d"}\n') == {"key": "a"}
    assert decode_line(b'{"key": "b", "crc": "8a3bca2d"}\n') is None
    assert decode_line(b'{"key": "a", "crc": "8a3bca2d"}') is None
    assert decode_line(b"\n") is None


def test_wherever_it_ends_what_is_whole_is_there(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    for cut in range(len(WHOLE) + 1):
        file.write_bytes(WHOLE[:cut])
        whole = WHOLE[:cut].count(b"\n")
        with opened(file) as store:
            assert list(store.rows()) == ROWS[:whole]
            store.add(ROWS[whole:])
        assert file.read_bytes() == WHOLE


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(len(b'{"key": "'), len(WHOLE) - 2), bit=st.integers(0, 7))
def test_a_bit_that_is_flipped_costs_its_line_and_no_other(tmp_path: Path, place: int, bit: int) -> None:
    file, damaged = tmp_path / "answers.jsonl", bytearray(WHOLE)
    damaged[place] ^= 1 << bit
    file.write_bytes(damaged)
    hit = {WHOLE[:place].count(b"\n")}
    if damaged[place : place + 1] != WHOLE[place : place + 1] == b"\n":
        hit.add(min(hit) + 1)  # two lines have become one
    assert held(file) == [row for i, row in enumerate(ROWS) if i not in hit]


def test_damage_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_bytes(WHOLE.replace(b"k1", b"K1"))
    assert [row["key"] for row in held(file)] == ["k0", "k2", "k3"]
    assert "answers.jsonl: damaged lines are passed over: 2\n" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["# Notes\n", '{"prompt": "x"}', "\n", '{"key":"compact"}\n'])
def test_a_file_that_is_no_store_stays_as_it_is(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match="no store") as caught:
        opened(file)
    assert (caught.value.key, caught.value.value, caught.value.code) == ("stage.store", str(file), CONFIG)
    assert file.read_text() == text


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this is a folder"):
        opened(tmp_path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as caught, opened(tmp_path / "file" / "answers.jsonl"):
        pass
    assert caught.value.code == STORAGE


def test_a_full_disk_is_an_error_of_storage() -> None:
    with opened(Path("/dev/full")) as store, pytest.raises(UserError, match="No space left") as caught:
        store.add(ROWS)
    assert caught.value.code == STORAGE
    assert "resume=auto" in caught.value.hint


def test_one_waits_for_the_other_and_finds_what_it_has_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, found = tmp_path / "answers.jsonl", []
    with opened(file) as store:
        second = threading.Thread(target=lambda: found.extend(held(file)))
        second.start()
        time.sleep(0.25)
        assert second.is_alive()
        store.add(ROWS)
    second.join()
    assert found == ROWS
    assert capsys.readouterr().err.count("waiting for another run") == 1


def test_a_stop_is_heard_while_it_waits(tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted(15)

    descriptors = len(os.listdir("/proc/self/fd"))
    with opened(tmp_path / "a"), pytest.raises(Interrupted), AnswerCache(tmp_path / "a", "stage.store", stop):
        pass
    assert len(os.listdir("/proc/self/fd")) == descriptors
