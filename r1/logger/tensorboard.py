"""Metrics as TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from lightning.pytorch.loggers import TensorBoardLogger

from r1.core.storage import named
from r1.core.types import Config
from r1.logger.base import RunLogger


class TensorBoard(TensorBoardLogger, RunLogger):
    """Event files under ``tensorboard/`` in the record's folder."""

    extra = "tensorboard"

    def __init__(self, folder: Path, config: Config, *, flush_secs: Annotated[int, Ge(1)]) -> None:
        super().__init__(folder, name="", version="tensorboard", flush_secs=flush_secs)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with named(Path(self.log_dir)):
            super().log_metrics(metrics, step)

    def finalize(self, status: str) -> None:
        with named(Path(self.log_dir)):
            super().finalize(status)
