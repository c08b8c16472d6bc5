"""Checkpoints between two optimizer steps: written aside, synced, checksummed, renamed; a damaged one is skipped.

The state that is saved is the state between two steps: every rollout, validation and export that was begun and not
finished is done again by the run that goes on, and comes out the same.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from r1.core.console import console
from r1.core.errors import STORAGE, Interrupted, UserError
from r1.core.files import sync_path
from r1.distributed.collectives import RankGroup
from r1.train.checkpoint_files import CheckpointWriter, DirectCheckpointIO, file_sizes_at, latest
from r1.train.run_state import CLOSES_WITHIN_S, RunState

__all__ = ["CheckpointWriter", "Checkpoints", "DirectCheckpointIO", "file_sizes_at", "latest"]
AT_ONCE_S = 1.0
MAX_FAILURES = 3  # checkpoints that could not be written, one after the other


class Checkpoints(Callback):
    """Saves every ``every`` steps and when the run is asked to stop; keeps the newest two.

    A checkpoint is a moment of the whole record: it holds the length that each of the record's growing files had, so
    that a resumed run cuts them there and writes on. Where a validation is due at the step, it belongs before the
    checkpoint: Lightning does not make it up on resume.
    """

    def __init__(
        self,
        record: RunState,
        ranks: RankGroup,
        every: int,
        validate_every: int,
        keep_best: bool,
        in_background: bool,
    ) -> None:
        self.record, self.ranks, self.folder = record, ranks, record.dir / "checkpoints"
        self.every, self.validate_every, self.keep_best = every, validate_every, keep_best
        self.in_background = in_background
        self.writing: CheckpointWriter | None = None  # at most one checkpoint is on its way
        self.stop_signal: int | None = None
        self.asked: tuple[int, float] | None = None  # the first signal to this process, and when
        self.failures = 0

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = DirectCheckpointIO(self.in_background)

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        self.record.best = module.validator.best  # a run that was killed could not write it down

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.poll()
        if trainer.global_step and self._validation_due(trainer) and module.validator.step != trainer.global_step:
            self._make_up_validation(trainer, module)

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """A first signal asks for a stop after the step, a second one stops at once.

        The same one within a second is the first: a cluster sends it to every process, and so does a launcher.
        """
        if self.asked is None:
            self.asked = number, time.monotonic()
            self.stop_signal = self.stop_signal or number  # another rank's may have come first
        elif number != self.asked[0] or time.monotonic() - self.asked[1] > AT_ONCE_S:
            os._exit(128 + number)

    def poll(self) -> None:
        """Called wherever the run may be left at once: between two tokens of a rollout, after training.

        Raises:
            Interrupted: a stop was asked for.
            RankFailed: another process of the run has failed.
        """
        self.ranks.heartbeat()
        if self.stop_signal is not None:
            raise Interrupted(self.stop_signal)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """A stop in the middle of a rollout or a validation: the last finished step is saved as it is.

        The rollouts of the step that was begun are a function of its weights and will be made again. With several
        processes none is left alone with its stop: they meet first, and save together.
        """
        exception = self.ranks.report_failure(exception)
        if isinstance(exception, Interrupted) and trainer.state.fn == TrainerFn.FITTING and trainer.global_step:
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset()  # else Lightning too makes up for a validation
            self.save(trainer)
            self.settle()
        elif self.writing:
            self.writing.join(CLOSES_WITHIN_S)

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self.settle()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        module.report_step()
        if not self._validation_due(trainer):
            self._after_step(trainer)

    def _validation_due(self, trainer: L.Trainer) -> bool:
        return trainer.global_step % self.validate_every == 0

    def _make_up_validation(self, trainer: L.Trainer, module: Any) -> None:
        """The run was stopped inside this validation."""
        module.eval()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            module.validation_step(module.val_dataloader().item, 0)
        module.train()
        self._validated(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._validated(trainer, module)
        elif trainer.global_step and self._validation_due(trainer):  # stopped in the last one: Lightning fits no more
            self._keep_best(module)

    def _validated(self, trainer: L.Trainer, module: Any) -> None:
        self._keep_best(module)
        self._after_step(trainer)

    def _keep_best(self, module: Any) -> None:
        """``best/`` is a Hugging Face folder like ``model/``: the old one or the new one, never half of either."""
        if not self.keep_best or not module.validator.improved(self.record.start):
            return
        self.record.best = module.validator.best
        final = self.record.dir / "best"
        new, old = (final.with_name(f"best.tmp.{what}") for what in ("new", "old"))
        module.export_policy(new, resumable=True)
        if not self.ranks.is_rank_zero:
            return
        if final.exists():
            final.rename(old)
        new.rename(final)
        shutil.rmtree(old, ignore_errors=True)

    def _after_step(self, trainer: L.Trainer) -> None:
        asked = [number for number in self.ranks.gather(self.stop_signal) if number is not None]
        self.stop_signal = asked[0] if asked else None
        if self.stop_signal is not None:
            trainer.should_stop = True
        if self.stop_signal is not None or trainer.global_step % self.every == 0:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Save, or say that it could not be done: a full disk must not cost what has been trained.

        Raises:
            UserError: it could not be done ``MAX_FAILURES`` times in a row.
        """
        self.settle()
        final = self.folder / f"step_{trainer.global_step:06d}"
        if self.ranks.broadcast_from_rank_zero(final.exists):
            return
        aside = final.with_name(f"{final.name}.tmp.{self.ranks.broadcast_from_rank_zero(os.getpid)}")
        writing = CheckpointWriter(aside, final, self.ranks.is_rank_zero)
        begin = (lambda: self._prepare(aside), lambda: self._take(trainer, writing))
        if error := next(filter(None, map(self._first_error_on_any_rank, begin)), None):
            self._ended(writing, error)
        elif self.in_background:
            self.writing = writing
            writing.start()
        else:
            writing.run()
            self._ended(writing, self._first_error_on_any_rank(writing.check))

    def settle(self) -> None:
        """Wait until the checkpoint that is being written, if any, is on the disk, and say if it could not be."""
        if writing := self.writing:
            while writing.is_alive():
                self.ranks.heartbeat()
                writing.join(0.05)
            self.writing = None
            self._ended(writing, self._first_error_on_any_rank(writing.check))

    def _ended(self, writing: CheckpointWriter, error: str | None) -> None:
        if error is None:
            self.failures = 0
            return
        if self.ranks.is_rank_zero:
            shutil.rmtree(writing.partial, ignore_errors=True)
        self._failed(writing.final, error)

    def _first_error_on_any_rank(self, step: Callable[[], None]) -> str | None:
        """Why a step could not be done on one of the ranks, which all know afterwards."""
        try:
            step()
            error = None
        except OSError as problem:
            error = str(problem)
        return next(filter(None, self.ranks.gather(error)), None)

    def _prepare(self, folder: Path) -> None:
        if self.ranks.is_rank_zero:
            folder.mkdir(parents=True, exist_ok=True)
            sizes = self.record.file_sizes()
            for name in sizes:
                sync_path(self.record.dir / name)
            (folder / "files.json").write_text(json.dumps(sizes))

    def _take(self, trainer: L.Trainer, writing: CheckpointWriter) -> None:
        """Write the state, or take a copy of it that is written beside training."""
        trainer.save_checkpoint(writing.partial / "state.ckpt")
        io: Any = trainer.strategy.checkpoint_io
        error, io.error = io.error, None
        writing.write, io.write = io.write, None
        if error:
            raise error

    def _failed(self, final: Path, error: str) -> None:
        self.failures += 1
        if self.failures == 1:
            what = f"warning: {final} could not be written ({error}); training goes on, the next one is tried"
            console.print(what)
        if self.failures == MAX_FAILURES:
            raise UserError(
                f"{MAX_FAILURES} checkpoints in a row could not be written: {error}",
                key="output_dir",
                value=str(self.folder),
                hint="make room, then continue from the last good checkpoint with resume=auto",
                code=STORAGE,
            ) from None
