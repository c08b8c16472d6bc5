"""Where metrics go besides the record: nowhere, a CSV file, TensorBoard, or Weights & Biases."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from rich.markup import escape

from r1 import jsonl
from r1.errors import Interrupted
from r1.progress import console, printable
from r1.provenance import flat
from r1.secrets import redact

INIT_TIMEOUT_S = 10.0  # a run must start without W&B


@contextmanager
def closing(logger: Logger) -> Iterator[None]:
    """Close the logger at the end of the block and let it know how the run ended."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    except Interrupted as stop:
        exit_code = stop.code
        raise
    finally:
        if isinstance(logger, Wandb):
            logger.close(exit_code)
        logger.finalize("failed" if exit_code else "success")


def csv(folder: Path, config: dict[str, Any], *, flush_every: Annotated[int, Ge(1)]) -> Logger:
    """``csv/metrics.csv`` in the record's folder; a resumed run begins with the rows that the record holds."""
    shutil.rmtree(folder / "csv", ignore_errors=True)
    logger = CSVLogger(folder, name="", version="csv", flush_logs_every_n_steps=flush_every)
    for row in jsonl.read(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []:
        logger.log_metrics(row, step=row.pop("step"))
    return logger


def tensorboard(folder: Path, config: dict[str, Any], *, flush_secs: Annotated[int, Ge(1)]) -> Logger:
    """Event files under ``tensorboard/`` in the record's folder."""
    return TensorBoardLogger(folder, name="", version="tensorboard", flush_secs=flush_secs)


tensorboard.extra = "tensorboard"  # type: ignore[attr-defined]  # the optional package that it needs


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
    """A W&B run with the config flattened to dotted leaves.

    ``auto`` is what WANDB_MODE says; without it, online with an API key or under a sweep agent, offline otherwise.
    """
    if mode == "auto":
        online = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_SWEEP_ID")
        mode = os.environ.get("WANDB_MODE") or ("online" if online else "offline")  # type: ignore[assignment]
    where = {"project": project, "entity": entity, "group": group}
    return Wandb(name, folder, **where, tags=tags, mode=mode, config=flat(config))  # type: ignore[arg-type]


class Wandb(WandbLogger):
    """Lightning's logger, and what it lacks: it never closes its run, so that the process's next run would go on in it
    and a crash would look like a success; it lets W&B's own troubles end the run; it sends the command line as it is.
    """

    warned = False

    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            self._init()
        return super().experiment

    def _init(self) -> None:
        """Open the run, offline if W&B does not answer; the data can be sent later with ``wandb sync``."""
        import wandb

        typed, sys.argv = sys.argv, redact(sys.argv)  # wandb records the command line
        self._wandb_init["settings"] = wandb.Settings(init_timeout=INIT_TIMEOUT_S)
        try:
            _ = super().experiment
        except wandb.Error as error:
            self._warn("cannot be reached, so this run is kept offline", error)
            self._wandb_init["mode"] = "offline"
            _ = super().experiment
        finally:
            sys.argv = typed

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # whatever it is: the record has the metrics
            self._warn("does not take metrics", error)

    def close(self, exit_code: int) -> None:
        try:
            self.experiment.finish(exit_code=exit_code)
        except Exception as error:  # the run has ended, and its record does not depend on this
            self._warn("could not be closed", error)

    def _warn(self, what: str, error: Exception) -> None:
        if not self.warned:
            console.print(f"warning: W&B {what}: {escape(printable(redact(str(error))))}")
        self.warned = True
