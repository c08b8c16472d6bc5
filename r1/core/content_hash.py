"""sha256 of files and folders by content. Hashes of large files are cached by path, size, times and inode.

The cache is private: a folder that no other user can write. A damaged entry counts as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from r1.core.errors import STORAGE, UserError
from r1.core.files import write_atomic
from r1.core.storage import parse_json, read_text

MIN_CACHED_BYTES = 1 << 20  # a smaller file is hashed in a millisecond
MIN_AGE_NS = 2_000_000_000  # a file changed again within one tick of its clock would keep its times
_of_this_process: dict[tuple[int, ...], str] = {}  # digests by identity: the disk's cache may not be writable


def file_hash(file: Path) -> str:
    """sha256 over a file's content.

    Raises:
        UserError: it cannot be read.
    """
    try:
        before = file.stat()
        if before.st_size < MIN_CACHED_BYTES:
            return hashlib.sha256(file.read_bytes()).hexdigest()
        entry, identity = _cache_entry(file), _identity(before)
        if digest := _of_this_process.get(identity) or (entry and _read_entry(entry, before)):
            return digest
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        # ctime is the kernel's: a program that restores mtime changes it
        if _identity(file.stat()) == identity and time.time_ns() - before.st_ctime_ns > MIN_AGE_NS:
            _of_this_process[identity] = digest
            if entry:
                with suppress(OSError):
                    write_atomic(entry, _entry_text(before, digest))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}", key=str(file), value=None, code=STORAGE) from None
    return digest


def content_hashes(path: Path) -> dict[str, str]:
    """The sha256 of a file under its own name, or of the visible files below a folder by relative path."""
    if path.is_file():
        return {path.name: file_hash(path)}
    return {file.relative_to(path).as_posix(): file_hash(file) for file in visible_files(path)}


def visible_files(folder: Path) -> Iterator[Path]:
    """The regular files below a folder, also behind links to other folders, but no hidden ones and no bytecode."""
    seen = set[tuple[int, int]]()  # a link may lead to a folder above it
    for root, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(root)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        files = (Path(root, name) for name in sorted(names) if not name.startswith("."))
        yield from (file for file in files if file.is_file())


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _entry_text(status: os.stat_result, digest: str) -> str:
    entry = [[*_identity(status)], digest]
    return json.dumps([*entry, hashlib.sha256(json.dumps(entry).encode()).hexdigest()])


def _read_entry(entry: Path, status: os.stat_result) -> str | None:
    """The digest of an undamaged entry of this file as it is now."""
    with suppress(UserError, ValueError, TypeError, LookupError):
        text = read_text(entry)
        digest = str(parse_json(text)[1])
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
