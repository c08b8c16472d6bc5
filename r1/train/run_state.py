"""The results of a run so far, the same on every rank; rank 0 writes them down as the record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from r1.core.errors import RankFailed
from r1.core.files import is_locked
from r1.core.manifest import close_manifest, read_manifest
from r1.core.secrets import redact
from r1.core.statistics import Estimate

CLOSES_WITHIN_S = 15.0  # rank 0 has this long to close its record after another rank has failed


class RunState:
    """Context manager around a run; on rank 0 it is a ``r1.train.record.Record``, which overrides the empty methods.

    Attributes:
        dir: the record's folder.
        start, final: metrics of the first and of the last validation.
        best: step and primary metric of the best validation so far.
        devices: their number, the strategy, the precision of their products, and their hosts.
        num_examples: training examples.
    """

    def __init__(self, folder: Path, num_examples: int = 0) -> None:
        self.dir = folder.absolute()
        self.num_examples = num_examples
        self.start: dict[str, Estimate] = {}
        self.final: dict[str, Estimate] = {}
        self.best: dict[str, Any] | None = None
        self.devices: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the record for rank 0 if it was killed: while it lives, it locks the folder and closes it itself."""
        if error is None or not self.dir.exists():
            return
        deadline = time.monotonic() + CLOSES_WITHIN_S
        while (locked := is_locked(self.dir)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not locked:
            message = "exited without reporting an error (killed?)"
            failure = error if isinstance(error, RankFailed) else RankFailed(message, 0, code=1)
            finalize_manifest(self.dir, "failed", failure)

    def write_manifest(self, status: str) -> None:
        """Write the run's summary."""

    def link_best(self) -> None:
        """Make equal files of ``model/`` and ``best/`` one file each."""

    def file_sizes(self) -> dict[str, int]:
        """Sizes in bytes of the record's append-only files."""
        return {}

    def truncate_files(self, sizes: Mapping[str, int]) -> None:
        """Truncate the append-only files to earlier ``sizes``; the resumed run writes the rest again."""


def finalize_manifest(folder: Path, status: str, error: Exception) -> str:
    """Write how a run ended, unless its rank 0 has done so; returns the status in the manifest."""
    manifest = read_manifest(folder)
    if manifest.get("status", "running") != "running":
        return str(manifest["status"])
    if manifest:
        close_manifest(folder, manifest | {"status": status, "error": redact(f"{type(error).__name__}: {error}")})
    return status
