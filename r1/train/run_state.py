"""What a run has found so far, as every process of it knows it; only the first one's is written down, as the record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from r1.core.errors import RankFailed
from r1.core.files import is_locked
from r1.core.manifest import read_manifest, write_manifest
from r1.core.secrets import redact
from r1.core.statistics import Estimate

CLOSES_WITHIN_S = 15.0  # the first process has this long to close its record once another has failed


class RunState:
    """Context manager around a run.

    Attributes:
        dir: the record's folder, whoever writes it.
        start, final: the figures of the first and of the last validation.
        best: step and headline of the best validation so far.
        devices: how many there are, how they share the work, and whose they are.
    """

    def __init__(self, folder: Path) -> None:
        self.dir = folder.absolute()
        self.start: dict[str, Estimate] = {}
        self.final: dict[str, Estimate] = {}
        self.best: dict[str, Any] | None = None
        self.devices: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The first process closes the record: until then it holds its lock. Killed, it could not."""
        if error is None or not self.dir.exists():
            return
        deadline = time.monotonic() + CLOSES_WITHIN_S
        while (held := is_locked(self.dir)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not held:
            gone = error if isinstance(error, RankFailed) else RankFailed("has ended without a word", 0, code=1)
            finalize_manifest(self.dir, "failed", gone)

    def write_manifest(self, status: str, error: BaseException | None = None) -> None:
        """The first process writes it."""

    def file_sizes(self) -> dict[str, int]:
        """How long the record's growing files are, where this process writes them."""
        return {}

    def cut_files(self, sizes: Mapping[str, int]) -> None:
        """Cut them back to an earlier moment."""


def finalize_manifest(folder: Path, status: str, error: Exception) -> str:
    """Write down how a run ended if the process that keeps its record could not; the status that stands there."""
    manifest = read_manifest(folder)
    if manifest.get("status", "running") != "running":
        return str(manifest["status"])
    if manifest:
        write_manifest(folder, manifest | {"status": status, "error": redact(f"{type(error).__name__}: {error}")})
    return status
