"""Callbacks of a user's own package."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback


class Counting(Callback):
    """Counts hooks, logs the counts in every step, and ends training after ``stop_at`` steps."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.steps = self.validations = 0
        self.stop_at = stop_at

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "validations": self.validations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.validations = state["steps"], state["validations"]

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.steps += 1
            self.log("mine/steps", float(self.steps))
            self.log("mine/validations", float(self.validations))
            if self.steps == self.stop_at:
                trainer.should_stop = True

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        if trainer.state.fn == "fit":
            self.validations += 1


class Unreadable(Callback):
    """Its state is an object of its own class."""

    def state_dict(self) -> dict[str, Any]:
        return {"state": self}


def not_a_callback() -> int:
    return 1
