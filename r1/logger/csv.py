"""Metrics as a table that anything can open."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from lightning.pytorch.loggers import CSVLogger, Logger

from r1.core import jsonl


def csv(folder: Path, config: dict[str, Any], *, flush_every: Annotated[int, Ge(1)]) -> Logger:
    """``csv/metrics.csv`` in the record's folder; a resumed run begins with the rows that the record holds."""
    shutil.rmtree(folder / "csv", ignore_errors=True)
    logger = CSVLogger(folder, name="", version="csv", flush_logs_every_n_steps=flush_every)
    for row in jsonl.read(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []:
        logger.log_metrics(row, step=row.pop("step"))
    return logger
