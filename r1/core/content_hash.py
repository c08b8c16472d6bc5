"""sha256 of files and folders by content. Hashes of large files are cached by path, size, times and inode.

The cache is private: a folder that no other user can write. A damaged entry counts as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from r1.core.errors import STORAGE, UserError
from r1.core.files import write_atomic

MIN_CACHED_BYTES = 1 << 20  # a smaller file is hashed in a millisecond
MIN_AGE_NS = 2_000_000_000  # a file changed again within one tick of its clock would keep its times


def file_hash(file: Path) -> str:
    """sha256 over a file's content.

    Raises:
        UserError: it cannot be read.
    """
    try:
        before = file.stat()
        if before.st_size < MIN_CACHED_BYTES:
            return hashlib.sha256(file.read_bytes()).hexdigest()
        entry = _cache_entry(file)
        if entry and (digest := _read_entry(entry, before)):
            return digest
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        # ctime is the kernel's: a program that restores mtime changes it
        unchanged = _identity(file.stat()) == _identity(before) and time.time_ns() - before.st_ctime_ns > MIN_AGE_NS
        if entry and unchanged:
            with suppress(OSError):
                write_atomic(entry, _entry_text(before, digest))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}", key=str(file), value=None, code=STORAGE) from None
    return digest


def content_hashes(path: Path) -> dict[str, str]:
    """The sha256 of a file under its own name, or of all files below a folder by relative path, except hidden ones."""
    if path.is_file():
        return {path.name: file_hash(path)}
    names = ((file.relative_to(path), file) for file in sorted(path.rglob("*")) if file.is_file())
    return {
        name.as_posix(): file_hash(file)
        for name, file in names
        if not any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    }


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]


def _entry_text(status: os.stat_result, digest: str) -> str:
    entry = [_identity(status), digest]
    return json.dumps([*entry, hashlib.sha256(json.dumps(entry).encode()).hexdigest()])


def _read_entry(entry: Path, status: os.stat_result) -> str | None:
    """The digest of an undamaged entry of this file as it is now."""
    with suppress(OSError, ValueError, TypeError, IndexError, UnicodeError):
        text = entry.read_text(encoding="utf-8")
        digest = str(json.loads(text)[1])
        return digest if text == _entry_text(status, digest) else None
    return None


def _cache_entry(file: Path) -> Path | None:
    """The file of a hash in the user's cache; None: there is no cache that others cannot write."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "r1" / "hashes"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except (OSError, RuntimeError):
        return None
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return folder / hashlib.sha256(os.fsencode(file.resolve())).hexdigest() if is_private else None
