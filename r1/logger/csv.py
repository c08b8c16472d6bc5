"""Metrics as a CSV table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from lightning.pytorch.loggers import CSVLogger

from r1.core.storage import named
from r1.core.types import Config
from r1.logger.base import RunLogger, recorded_metrics


class Csv(CSVLogger, RunLogger):
    """``csv/metrics.csv`` in the record's folder; a resumed run starts from the rows of the record."""

    def __init__(self, folder: Path, config: Config, *, flush_every: Annotated[int, Ge(1)]) -> None:
        shutil.rmtree(folder / "csv", ignore_errors=True)
        super().__init__(folder, name="", version="csv", flush_logs_every_n_steps=flush_every)
        for metrics, step in recorded_metrics(folder):
            self.log_metrics(metrics, step)

    def save(self) -> None:
        with named(Path(self.experiment.metrics_file_path)):
            super().save()
