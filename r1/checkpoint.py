"""Checkpoints between two optimizer steps: written aside, synced, checksummed, renamed; a damaged one is passed over."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from r1.errors import STORAGE, UserError
from r1.record import MetricsFile, Record

KEEP = 2


class Checkpoints(Callback):
    """Saves every ``every`` steps and when the run is asked to stop; keeps the newest two."""

    def __init__(self, record: Record, every: int) -> None:
        self.folder, self.every = record.dir / "checkpoints", every
        self.stop_signal: int | None = None

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self.stop_signal is not None:
            trainer.should_stop = True
        if self.stop_signal is not None or trainer.global_step % self.every == 0:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        final = self.folder / f"step_{trainer.global_step:06d}"
        if final.exists():
            return
        partial = self.folder / f"{final.name}.tmp.{os.getpid()}"
        partial.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(partial / "state.ckpt")
        (partial / "sha256").write_text(_digest(partial / "state.ckpt"))
        for file in partial.iterdir():
            _sync(file)
        partial.rename(final)
        _sync(self.folder)
        for old in sorted(self.folder.glob("step_??????"))[:-KEEP]:
            shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of a run, or None if it has not saved one yet.

    Raises:
        UserError: there are checkpoints and every one is damaged.
    """
    for partial in folder.glob("*.tmp.*"):
        shutil.rmtree(partial)
    found = sorted(folder.glob("step_??????"), reverse=True)
    for checkpoint in found:
        state, digest = checkpoint / "state.ckpt", checkpoint / "sha256"
        if state.is_file() and digest.is_file() and _digest(state) == digest.read_text():
            return state
        print(f"warning: {checkpoint} is damaged and passed over")
    if found:
        raise UserError(
            "every checkpoint of this run is damaged",
            where="resume",
            given=str(folder),
            allowed=", ".join(c.name for c in found),
            do="take another output_dir to start again",
            code=STORAGE,
        )
    return None


def rewind(metrics: MetricsFile, checkpoint: Path | None) -> None:
    """Bring the record's files back to the moment of ``checkpoint`` (None: to the start)."""
    metrics.rewind(int(checkpoint.parent.name.removeprefix("step_")) if checkpoint else -1)


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
