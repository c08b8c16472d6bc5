"""A run's checkpoints on the disk: the newest good one, and what makes one good."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from r1.errors import STORAGE, UserError
from r1.progress import console

KEEP = 2


def publish(partial: Path, final: Path) -> None:
    """Checksum, sync and name a checkpoint that has been written aside; older ones than the newest two go."""
    (partial / "sha256").write_text(_digest(partial))
    for path in (*_files(partial), partial / "sha256", partial / "state.ckpt", partial):
        sync(path)
    partial.rename(final)
    sync(final.parent)
    for old in sorted(final.parent.glob("step_??????"))[:-KEEP]:
        shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of a run, or None if it has not saved one yet; damaged newer ones are removed.

    Raises:
        UserError: there are checkpoints and every one is damaged.
    """
    for partial in folder.glob("*.tmp.*"):
        shutil.rmtree(partial)
    found = sorted(folder.glob("step_??????"), reverse=True)
    for i, checkpoint in enumerate(found):
        if _intact(checkpoint):
            for damaged in found[:i]:
                shutil.rmtree(damaged)  # their steps will be made and saved again
            return checkpoint / "state.ckpt"
        console.print(f"warning: {checkpoint} is damaged and passed over")
    if found:
        raise UserError(
            "every checkpoint of this run is damaged",
            where="resume",
            given=str(folder),
            allowed=", ".join(c.name for c in found),
            do="take another output_dir to start again",
            code=STORAGE,
        )
    return None


def _intact(checkpoint: Path) -> bool:
    try:
        return _digest(checkpoint) == (checkpoint / "sha256").read_text()
    except (OSError, ValueError):  # a file is missing, cannot be read, or is no text
        return False


def files_at(checkpoint: Path | None) -> dict[str, int]:
    """How long the record's files were at the moment of ``checkpoint`` (None: before the first step)."""
    if checkpoint is None:
        return {}
    sizes: dict[str, int] = json.loads((checkpoint.parent / "files.json").read_text())
    return sizes


def _digest(folder: Path) -> str:
    """sha256 over the files of a checkpoint."""
    digest = hashlib.sha256()
    for path in _files(folder):
        with path.open("rb") as source:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.file_digest(source, "sha256").digest())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """What a checkpoint consists of: the state, a file or one per device, and the sizes of the record's files."""
    state = folder / "state.ckpt"
    parts = sorted(path for path in state.rglob("*") if path.is_file()) if state.is_dir() else [state]
    return [*parts, folder / "files.json"]


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
