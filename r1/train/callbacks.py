"""The user's callbacks in a run: the metrics that they monitor, and the state that a checkpoint has of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn

from r1.config.check.callbacks import unknown_monitor
from r1.core.errors import UserError
from r1.core.metrics import METRICS, metric_named


class Monitors(Callback):
    """Ends a run at its start, or at its first validation, if early stopping monitors a metric that it does not have.

    It comes before the user's callbacks, whose own error would be a traceback. The config's check rejects most of these
    names; whether a stage computes a metric is known only now.
    """

    def __init__(self, callbacks: Mapping[str, Callback]) -> None:
        self.monitors = {
            name: callback.monitor
            for name, callback in callbacks.items()
            if isinstance(callback, EarlyStopping) and metric_named(callback.monitor) in METRICS
        }

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        if module.validator.metrics:
            self._check(module.validator.metrics, "val/")

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._check({**module.validator.metrics, **trainer.callback_metrics}, "")

    def _check(self, metrics: Mapping[str, Any], prefix: str) -> None:
        for name, monitor in self.monitors.items():
            if monitor.startswith(prefix) and monitor not in metrics:
                raise unknown_monitor(monitor, list(metrics), f"callbacks.{name}")


def states_of(callbacks: Sequence[Callback]) -> dict[str, Any]:
    """The state of each callback that has one, by its key in a checkpoint; later changes do not reach it.

    Raises:
        UserError: a state cannot be read back from a checkpoint, whose files run no code.
    """
    states = {}
    for callback in callbacks:
        if not (state := callback.state_dict()):
            continue
        buffer = io.BytesIO()
        try:
            torch.save(state, buffer)
            buffer.seek(0)
            states[callback.state_key] = torch.load(buffer, weights_only=True)
        except Exception as error:  # pickle, and a user's own classes, raise many kinds
            message = f"the state of {type(callback).__name__} cannot be restored from a checkpoint"
            expected = "`state_dict` returns numbers, text, tensors, lists and mappings"
            hint = f"{type(error).__name__}: {error}"
            raise UserError(message, key="callbacks", expected=expected, hint=hint) from None
    return states
