"""The parts of Lightning that r1 uses beyond its documented interface; read this page before upgrading Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import lightning as L

    from r1.stage.training.base import TrainingStage


def disable_signal_handlers(trainer: L.Trainer) -> None:
    """Leave the signals to r1's handlers.

    Lightning's SIGTERM handler starts a broadcast, on each rank at another point of its step: a deadlock.
    """
    # 2.6: no public option turns it off. The connector is a private attribute; should an upgrade rename it, this raises
    # AttributeError at once. Should an upgrade rename the method, tests/train/test_signals.py fails.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def forget_unfinished_validation(trainer: L.Trainer) -> None:
    """Reset the counters of a validation that was stopped, before they are saved in a checkpoint."""
    # 2.6: with counters of an unfinished validation, a resumed fit starts with that validation, in addition to the one
    # that r1 makes up (``run_validation``).
    trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset()


def log_step(trainer: L.Trainer) -> None:
    """Send to the loggers now what callbacks have logged in this step (``self.log``), and not again."""
    # 2.6: Lightning does so after ``on_train_batch_end``, so that the rows would come after the step's checkpoint, and
    # a resumed run would lack them. ``on_batch_end`` is what it calls before.
    connector = trainer._logger_connector
    connector.on_batch_end()
    type(connector).update_train_step_metrics(connector)
    connector.update_train_step_metrics = lambda: None  # type: ignore[method-assign]


def validate_start(trainer: L.Trainer, stage: TrainingStage) -> None:
    """The validation before the first step, in ``on_train_start``, without the hooks of one during training."""
    # The context is that of the validation loop, so the same completions are sampled under mixed precision.
    stage.eval()
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        (indices,) = stage.val_dataloader().batches
        stage.validation_step(indices, 0)
    stage.train()


def run_validation(trainer: L.Trainer) -> None:
    """One validation in ``on_train_start``, with all hooks of one during training."""
    # 2.6: ``trainer.validate`` cannot be called inside of ``fit``: it replaces the trainer's state. This is what
    # _TrainingEpochLoop.on_advance_end does.
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
