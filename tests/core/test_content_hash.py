"""Hashes by content: every change is seen, and the cache of large files is private and survives damage."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from r1.core import content_hash
from r1.core.content_hash import content_hashes, file_hash
from r1.core.errors import STORAGE, UserError


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is cached as soon as it is hashed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content_hash, "MIN_CACHED_BYTES", 8)
    monkeypatch.setattr(content_hash, "MIN_AGE_NS", 0)
    monkeypatch.setattr(content_hash, "_of_this_process", {})
    file = tmp_path / "weights"
    file.write_bytes(b"0123456789")
    time.sleep(0.02)  # a tick of the kernel's clock
    return file


def entries(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "r1" / "hashes").iterdir())


def test_file_hash_sees_a_flipped_byte_where_size_and_mtime_are_restored(large: Path) -> None:
    before, status = file_hash(large), large.stat()
    assert before == hashlib.sha256(b"0123456789").hexdigest()
    with large.open("r+b") as file:
        file.seek(4)
        file.write(b"x")
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert large.stat().st_mtime_ns == status.st_mtime_ns
    assert file_hash(large) == hashlib.sha256(b"0123x56789").hexdigest()


def test_file_hash_of_an_unchanged_file_reads_it_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file_hash(large)
    monkeypatch.setattr("r1.core.content_hash.hashlib.file_digest", None)
    assert file_hash(large) == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000, b"{}", "flip"])
def test_file_hash_with_a_damaged_cache_is_right(large: Path, tmp_path: Path, damage: bytes | str) -> None:
    before = file_hash(large)
    (entry,) = entries(tmp_path)
    content = entry.read_bytes()
    entry.write_bytes(damage if isinstance(damage, bytes) else content.replace(before[:4].encode(), b"0000"))
    content_hash._of_this_process.clear()
    assert file_hash(large) == before
    assert entry.read_bytes() == content


def test_file_hash_with_a_fifo_in_the_cache_is_right(large: Path, tmp_path: Path) -> None:
    before = file_hash(large)
    (entry,) = entries(tmp_path)
    entry.unlink()
    os.mkfifo(entry)
    content_hash._of_this_process.clear()
    assert file_hash(large) == before


def test_cache_is_private_and_is_not_used_where_others_can_write(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_hash(large)
    folder = entries(tmp_path)[0].parent
    assert folder.stat().st_mode & 0o777 == 0o700
    for entry in entries(tmp_path):
        entry.unlink()
    folder.chmod(0o770)
    content_hash._of_this_process.clear()
    before = file_hash(large)
    assert entries(tmp_path) == []
    monkeypatch.setattr("r1.core.content_hash.hashlib.file_digest", None)
    assert file_hash(large) == before  # once read, this process has it in memory


def test_file_that_has_just_changed_is_not_cached(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_hash, "MIN_AGE_NS", 10**12)
    file_hash(large)
    assert entries(tmp_path) == []


def test_content_hashes_cover_a_folder_but_not_its_hidden_files(tmp_path: Path) -> None:
    for name in ("config.json", "sub/chat.jinja", ".git/HEAD", "__pycache__/x.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "sub" / "above").symlink_to("..")
    assert content_hashes(tmp_path).keys() == {"config.json", "sub/chat.jinja"}
    assert content_hashes(tmp_path / "config.json") == {"config.json": hashlib.sha256(b"config.json").hexdigest()}
    assert content_hashes(tmp_path / "missing") == {}


def test_file_hash_of_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        file_hash(tmp_path / "x")
    assert raised.value.code == STORAGE
