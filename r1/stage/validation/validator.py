"""The state of validation: the newest metrics, and the best primary metric of the run so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from r1.core.metrics import primary_metric
from r1.core.statistics import Estimate
from r1.stage.validation.metrics import Sample


class Validator:
    """Newest and best validation of a run.

    Attributes:
        metrics: of the newest validation.
        step: optimizer step of the newest validation; -1 before the first.
        is_first: the newest validation is the run's first.
        best: step and primary metric of the best validation during training; None before the first improvement.
        shown_samples: a few completions for the screen.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Estimate] = {}
        self.step = -1
        self.is_first = False
        self.best: dict[str, float] | None = None
        self.shown_samples: Sequence[Sample] = []

    def update(self, step: int, metrics: Mapping[str, Estimate], shown_samples: Sequence[Sample] = ()) -> None:
        self.is_first = self.step < 0
        self.step, self.metrics, self.shown_samples = step, dict(metrics), shown_samples

    def improved(self, start: Mapping[str, Estimate]) -> bool:
        """Whether the newest primary metric is the best so far, that of the run's start included; updates ``best``.

        Args:
            start: empty if the start was not validated.
        """
        name = primary_metric(self.metrics)
        value = self.metrics[name].value
        before = self.best or {name: estimate.value for name, estimate in start.items()}
        if name in before and value <= before[name]:
            return False
        self.best = {"step": self.step, name: value}
        return True

    def state_dict(self) -> dict[str, Any]:
        metrics = {name: asdict(estimate) for name, estimate in self.metrics.items()}
        return {"step": self.step, "figures": metrics, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.best = state["step"], state["best"]
        self.metrics = {name: Estimate(**estimate) for name, estimate in state["figures"].items()}
