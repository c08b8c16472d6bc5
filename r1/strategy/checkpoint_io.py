"""Lightning's checkpoint writer, without its detour through $TMPDIR, and with a write that can be deferred."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from r1.strategy import shards


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes to the given path itself: Lightning writes to $TMPDIR first, which may be on another disk.

    Args:
        in_background: a save only copies the state; ``take_deferred_write`` returns the write itself.

    Attributes:
        error: of the last save; stored and not raised, because the other ranks wait for this one after it.
        deferred_write: writes the copied state.
    """

    def __init__(self, in_background: bool = False) -> None:
        self.in_background = in_background
        self.error: OSError | None = None
        self.deferred_write: Callable[[], None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if self.in_background:
            self.deferred_write = partial(save_file, shards.copy_to_cpu(checkpoint), Path(path))
            return
        try:
            save_file(checkpoint, Path(path))
        except OSError as error:
            self.error = error

    def take_deferred_write(self) -> Callable[[], None] | None:
        """The write that the last save left for the background; None: the save has written everything.

        Raises:
            OSError: the last save failed.
        """
        error, self.error = self.error, None
        write, self.deferred_write = self.deferred_write, None
        if error:
            raise error
        return write

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A single file, or a folder with one file of each device that saved it."""
        return shards.consolidate(Path(path)) if Path(path).is_dir() else super().load_checkpoint(path, *args, **kwargs)


def save_file(checkpoint: dict[str, Any], path: Path) -> None:
    """``torch.save`` that raises OSError where the disk is at fault.

    Raises:
        OSError: no room, or another fault of the disk.
    """
    try:
        with path.open("wb") as out:
            torch.save(checkpoint, out)
    except RuntimeError as error:  # torch replaces the OSError by one about its file format
        if not isinstance(error.__context__, OSError):
            raise
        raise error.__context__ from None
