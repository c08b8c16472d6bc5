"""A run's checkpoints on the disk: how they are written, what makes one good, and which is the newest good one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from r1.core.console import console
from r1.core.errors import STORAGE, UserError
from r1.core.files import sync_path
from r1.strategy import shards

KEEP = 2


class CheckpointWriter(Thread):
    """The rest of a checkpoint once its state has been taken: at once, or as a thread beside training."""

    def __init__(self, partial: Path, final: Path, first: bool) -> None:
        super().__init__(daemon=True)
        self.partial, self.final, self.first = partial, final, first
        self.write: Callable[[], None] | None = None  # None: it is written already
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            if self.write:
                self.write()
            if self.first:
                publish(self.partial, self.final)
        except BaseException as error:  # raised again by whoever waits for it
            self.error = error

    def check(self) -> None:
        if self.error:
            raise self.error


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes where it is told to: Lightning goes through $TMPDIR, which may be another disk.

    Attributes:
        error: why it could not be written; not raised, for the other ranks wait for this one behind it.
        write: what is left to be done in the background.
    """

    error: OSError | None = None
    write: Callable[[], None] | None = None

    def __init__(self, in_background: bool = False) -> None:
        self.in_background = in_background

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if self.in_background:
            self.write = partial(_save, shards.copy_to_cpu(checkpoint), Path(path))
            return
        try:
            _save(checkpoint, Path(path))
        except OSError as error:
            self.error = error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """One file, or one of each device there was when it was saved."""
        return shards.consolidate(Path(path)) if Path(path).is_dir() else super().load_checkpoint(path, *args, **kwargs)


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as out:
            torch.save(checkpoint, out)
    except RuntimeError as error:  # torch hides it behind an error about its own format
        if not isinstance(error.__context__, OSError):
            raise
        raise error.__context__ from None


def publish(aside: Path, final: Path) -> None:
    """Checksum, sync and name a checkpoint that has been written aside; older ones than the newest two go."""
    (aside / "sha256").write_text(_digest(aside))
    for path in (*_files(aside), aside / "sha256", aside / "state.ckpt", aside):
        sync_path(path)
    aside.rename(final)
    sync_path(final.parent)
    for old in sorted(final.parent.glob("step_??????"))[:-KEEP]:
        shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of a run, or None if it has not saved one yet.

    Damaged newer ones are removed, and what is older than the newest two.

    Raises:
        UserError: there are checkpoints and every one is damaged.
    """
    for left in folder.glob("*.tmp.*"):
        shutil.rmtree(left)
    found = sorted(folder.glob("step_??????"), reverse=True)
    for i, checkpoint in enumerate(found):
        if _checksum_ok(checkpoint):
            for damaged in found[:i]:
                shutil.rmtree(damaged)  # their steps will be made and saved again
            for old in found[i + KEEP :]:
                shutil.rmtree(old)  # it was to go when the run was killed
            return checkpoint / "state.ckpt"
        console.print(f"warning: {checkpoint} is damaged and passed over")
    if found:
        raise UserError(
            "every checkpoint of this run is damaged",
            key="resume",
            value=str(folder),
            expected=", ".join(c.name for c in found),
            hint="take another output_dir to start again",
            code=STORAGE,
        )
    return None


def _checksum_ok(checkpoint: Path) -> bool:
    try:
        return _digest(checkpoint) == (checkpoint / "sha256").read_text()
    except (OSError, ValueError):  # a file is missing, cannot be read, or is no text
        return False


def file_sizes_at(checkpoint: Path | None) -> dict[str, int]:
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
