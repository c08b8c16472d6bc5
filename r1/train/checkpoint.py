"""When a run saves a checkpoint, stops, and resumes: always between two optimizer steps.

A rollout, validation or export that a stop interrupts is repeated after the resume, with the same result.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from r1.core.console import console, status_line
from r1.core.errors import STORAGE, Interrupted, UserError
from r1.core.files import sync_path
from r1.distributed.collectives import RankGroup
from r1.strategy.checkpoint_io import DirectCheckpointIO
from r1.train import lightning_adapter
from r1.train.callbacks import states_of
from r1.train.checkpoint_files import CheckpointWriter, write_file_sizes
from r1.train.progress import validation_line
from r1.train.run_state import CLOSES_WITHIN_S, RunState

DUPLICATE_SIGNAL_S = 1.0  # within this time, the same signal counts as the first one
MAX_FAILURES = 3  # failed checkpoints in a row


class Checkpoints(Callback):
    """Saves every ``every`` steps, at the end, and when a signal stops the run; keeps the newest ``keep`` checkpoints.

    The user's callbacks come before this one, so that a checkpoint has their state and their decision to stop.

    Args:
        record: its append-only files belong to a checkpoint by their sizes: a resumed run truncates them to the sizes
            in the checkpoint and appends again.
        ranks: all of them save together.
        every: optimizer steps between two checkpoints.
        validate_every: optimizer steps between two validations; a checkpoint follows the validation of its step.
        keep: checkpoints; an older one is removed once the new one is complete.
        keep_best: export the best policy so far to ``best/``.
        in_background: training continues while a checkpoint is written.
        callbacks: the user's.

    Attributes:
        pending_write: the checkpoint that is being written in the background; at most one.
        stop_signal: the signal that ends the run, of this or of another rank.
        first_signal: the first signal that this process received, and when.
        stopped_early: a callback has ended training (``trainer.should_stop``).
        metrics: the newest value of each metric; a callback may monitor those of a step that was trained before a stop.
        callback_states: of the user's callbacks after the newest step, and after its validation if it has had one.
        failures: failed checkpoints in a row.
    """

    def __init__(
        self,
        record: RunState,
        ranks: RankGroup,
        every: int,
        validate_every: int,
        keep: int,
        keep_best: bool,
        in_background: bool,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.record, self.ranks, self.folder = record, ranks, record.dir / "checkpoints"
        self.every, self.validate_every, self.keep, self.keep_best = every, validate_every, keep, keep_best
        self.in_background, self.callbacks = in_background, callbacks
        self.checkpoint_io = DirectCheckpointIO(in_background)
        self.pending_write: CheckpointWriter | None = None
        self.stop_signal: int | None = None
        self.first_signal: tuple[int, float] | None = None
        self.stopped_early = False
        self.metrics: dict[str, float] = {}
        self.callback_states: dict[str, Any] = {}
        self.failures = 0

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = self.checkpoint_io

    def state_dict(self) -> dict[str, Any]:
        return {"stopped_early": self.stopped_early, "metrics": self.metrics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stopped_early, self.metrics = state["stopped_early"], state["metrics"]

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["callbacks"] |= self.callback_states

    # ---- stops ----

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """The first signal stops the run after its step; a second one exits immediately.

        The same signal again within a second is not a second one: a cluster sends it to every process, and r1's
        launcher forwards it to the same processes.
        """
        if self.first_signal is None:
            self.first_signal = number, time.monotonic()
            self.stop_signal = self.stop_signal or number  # another rank's signal may have come first
        elif number != self.first_signal[0] or time.monotonic() - self.first_signal[1] > DUPLICATE_SIGNAL_S:
            os._exit(128 + number)  # without cleanup, which may be what hangs

    def check_for_stop(self) -> None:
        """Called where a run can be left without losing a step: between two tokens of a rollout, after training.

        Raises:
            Interrupted: this process has received a signal.
            RankFailed: another rank has failed.
        """
        self.ranks.heartbeat()
        if self.stop_signal is not None:
            raise Interrupted(self.stop_signal)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """After a stop inside a rollout or a validation, save the last finished step.

        The rollouts of the unfinished step depend only on the weights and the seed, so they need not be saved.
        """
        # Now all ranks save together: a stopped rank alone would wait in save() for ranks that continue training.
        exception = self.ranks.report_failure(exception)
        if isinstance(exception, Interrupted) and trainer.state.fn == TrainerFn.FITTING and trainer.global_step:
            lightning_adapter.forget_unfinished_validation(trainer)
            self.save(trainer)
            self.wait_for_pending_write()
        elif self.pending_write:
            self.pending_write.join(CLOSES_WITHIN_S)

    # ---- steps and validations ----

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        self.record.best = module.validator.best  # from the checkpoint: a killed run's manifest lacks it

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.check_for_stop()
        module.adopt_schedule()
        if (
            module.validation.at_start and not self.record.start
        ):  # it starts from the end of another run, whose weights it has only now
            lightning_adapter.validate_start(trainer, module)
            self.record.start = module.validator.metrics
            self.record.write_manifest("running")
            console.print(validation_line(trainer.global_step, module.validator.metrics))
        trainer.should_stop |= self.stopped_early or module.is_budget_spent
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self.metrics.items()})
        # A stop inside a validation has saved its step without the validation, and Lightning does not repeat it. An
        # uninterrupted run has its metrics, its samples and perhaps its best/, so it is made up for here.
        if trainer.global_step and self._is_validation_due(trainer) and module.validator.step != trainer.global_step:
            lightning_adapter.run_validation(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        module.report_step()
        lightning_adapter.log_step(trainer)
        self._note_callbacks(trainer)
        if not self._is_validation_due(trainer):  # else on_validation_end saves the step with its validation
            self._after_step(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        # A validation off the schedule is that of the end. It is no candidate for best/, and the checkpoint of its step
        # is older: an extended run is then like one that never had it.
        if not trainer.global_step or not self._is_validation_due(trainer):
            return
        self._update_best(module)
        # If not fitting, the run was stopped inside its last validation. Lightning has no step left to fit, so
        # r1.train.fit validates after the fit.
        if trainer.state.fn == TrainerFn.FITTING:
            self._note_callbacks(trainer)
            self._after_step(trainer, module)

    def _note_callbacks(self, trainer: L.Trainer) -> None:
        """Note what a checkpoint of this step has of the callbacks, however far a validation after it has come."""
        self.stopped_early = trainer.should_stop
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.callback_states = states_of(self.callbacks)

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        if self.stopped_early:
            console.print(status_line(f"a callback has ended training at step {trainer.global_step}"))
        self.wait_for_pending_write()

    def _is_validation_due(self, trainer: L.Trainer) -> bool:
        return trainer.global_step % self.validate_every == 0

    def _update_best(self, module: Any) -> None:
        """Export the policy to ``best/`` if its validation is the best so far."""
        if not self.keep_best or not module.validator.improved(self.record.start):
            return
        self.record.best = module.validator.best
        final = self.record.dir / "best"
        new, old = final.with_name("best.tmp.new"), final.with_name("best.tmp.old")
        module.export_policy(new, resumable=True)
        if not self.ranks.is_rank_zero:
            return
        # Two renames swap the folders: best/ is never incomplete. After a kill between them best/ is missing, and the
        # resumed run, whose checkpoint is older, exports it again.
        if final.exists():
            final.rename(old)
        new.rename(final)
        shutil.rmtree(old, ignore_errors=True)

    def _after_step(self, trainer: L.Trainer, module: Any) -> None:
        # A signal may have reached some ranks only, or in another step: all take the first one that any rank has.
        of_ranks = self.ranks.gather((self.stop_signal, self.stopped_early))
        self.stop_signal = next((number for number, _ in of_ranks if number is not None), None)
        self.stopped_early = any(stopped for _, stopped in of_ranks)
        trainer.should_stop = self.stop_signal is not None or self.stopped_early or module.is_budget_spent
        is_end = trainer.should_stop or trainer.global_step == trainer.max_steps
        if is_end or trainer.global_step % self.every == 0:
            self.save(trainer)

    # ---- saving ----

    def save(self, trainer: L.Trainer) -> None:
        """Save a checkpoint, or print a warning: training survives a disk that is full for a while.

        Raises:
            UserError: ``MAX_FAILURES`` checkpoints in a row could not be written.
        """
        self.wait_for_pending_write()
        final = self.folder / f"step_{trainer.global_step:06d}"
        if self.ranks.broadcast_from_rank_zero(final.exists):
            return
        partial = final.with_name(f"{final.name}.tmp.{self.ranks.broadcast_from_rank_zero(os.getpid)}")
        writer = CheckpointWriter(partial, final, self.ranks.is_rank_zero, self.keep)
        error = self._first_error_on_any_rank(lambda: self._write_file_sizes(partial))
        error = error or self._first_error_on_any_rank(lambda: self._write_or_snapshot(trainer, writer))
        if error:
            self._finish_write(writer, error)
        elif self.in_background:
            self.pending_write = writer
            writer.start()
        else:
            writer.run()
            self._finish_write(writer, self._first_error_on_any_rank(writer.check))

    def wait_for_pending_write(self) -> None:
        """Wait until the checkpoint in the background, if any, is on the disk; warn if it could not be written."""
        if writer := self.pending_write:
            while writer.is_alive():
                self.ranks.heartbeat()
                writer.join(0.05)
            self.pending_write = None
            self._finish_write(writer, self._first_error_on_any_rank(writer.check))

    def _write_file_sizes(self, folder: Path) -> None:
        """Sync the record's append-only files and write their sizes into the checkpoint."""
        if not self.ranks.is_rank_zero:
            return
        folder.mkdir(parents=True, exist_ok=True)
        sizes = self.record.file_sizes()
        # Synced before the checkpoint exists: after a power cut, a record file may be longer than the checkpoint says,
        # and is truncated, but never shorter, which would lose rows.
        for name in sizes:
            sync_path(self.record.dir / name)
        write_file_sizes(folder, self.record.dir, sizes)

    def _write_or_snapshot(self, trainer: L.Trainer, writer: CheckpointWriter) -> None:
        """Write the state, or copy it for ``writer`` to write in the background."""
        trainer.save_checkpoint(writer.partial / "state.ckpt")
        writer.write = self.checkpoint_io.take_deferred_write()

    def _first_error_on_any_rank(self, action: Callable[[], None]) -> str | None:
        """Run ``action``; the first rank's OSError, the same on all ranks. A collective."""
        try:
            action()
            message = None
        except OSError as error:
            message = str(error)
        return next(filter(None, self.ranks.gather(message)), None)

    def _finish_write(self, writer: CheckpointWriter, error: str | None) -> None:
        if error is None:
            self.failures = 0
            return
        if self.ranks.is_rank_zero:
            shutil.rmtree(writer.partial, ignore_errors=True)
        self.failures += 1
        if self.failures == 1:
            message = f"warning: {writer.final} could not be written ({error}); training continues without it"
            console.print(message)
        if self.failures == MAX_FAILURES:
            raise UserError(
                f"{MAX_FAILURES} checkpoints in a row could not be written: {error}",
                key="output_dir",
                value=str(self.folder),
                hint="make room, then continue from the last good checkpoint with resume=auto",
                code=STORAGE,
            ) from None
