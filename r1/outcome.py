"""What a run has found so far, as every process of it knows it; only the first one's is written down, as the record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from r1.evaluate import Estimate


class Outcome:
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
        """Nothing was opened."""

    def write_manifest(self, status: str, error: BaseException | None = None) -> None:
        """The first process writes it."""

    def file_sizes(self) -> dict[str, int]:
        """How long the record's growing files are, where this process writes them."""
        return {}

    def cut_files(self, sizes: Mapping[str, int]) -> None:
        """Cut them back to an earlier moment."""
