"""Where metrics go besides the record: nowhere, a CSV file, TensorBoard, or Weights & Biases."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger


def csv(folder: Path, config: dict[str, Any], *, flush_every: int) -> Logger:
    """``metrics.csv`` in the record's folder."""
    return CSVLogger(folder, name="", version="csv", flush_logs_every_n_steps=flush_every)


def tensorboard(folder: Path, config: dict[str, Any], *, flush_secs: int) -> Logger:
    """Event files under ``tensorboard/`` in the record's folder."""
    return TensorBoardLogger(folder, name="", version="tensorboard", flush_secs=flush_secs)


def wandb(
    folder: Path,
    config: dict[str, Any],
    *,
    project: str,
    entity: str | None,
    group: str | None,
    name: str | None,
    tags: list[str],
    mode: Literal["auto", "online", "offline", "disabled"],
) -> Logger:
    """A W&B run with the config flattened to dotted leaves; ``auto`` is online only if an API key is set."""
    if mode == "auto":
        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    os.environ["WANDB_MODE"] = mode
    logger = WandbLogger(
        project=project, entity=entity, group=group, name=name, tags=tags, save_dir=folder, config=flat(config)
    )
    return logger


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"stage": {"lr": 1}}`` -> ``{"stage.lr": 1}``: sweeps and filters name leaves."""
    leaves: dict[str, Any] = {}
    for name, value in node.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves
