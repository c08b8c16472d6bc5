"""Metrics as TensorBoard reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from lightning.pytorch.loggers import Logger, TensorBoardLogger


def tensorboard(folder: Path, config: dict[str, Any], *, flush_secs: Annotated[int, Ge(1)]) -> Logger:
    """Event files under ``tensorboard/`` in the record's folder."""
    return TensorBoardLogger(folder, name="", version="tensorboard", flush_secs=flush_secs)


tensorboard.extra = "tensorboard"  # type: ignore[attr-defined]  # the optional package that it needs
