"""The parts of Lightning that r1 uses beyond its documented interface; read this page before upgrading Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning as L


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


def run_validation(trainer: L.Trainer) -> None:
    """One validation in ``on_train_start``, with all hooks of one during training."""
    # 2.6: ``trainer.validate`` cannot be called inside of ``fit``: it replaces the trainer's state. This is what
    # _TrainingEpochLoop.on_advance_end does.
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
