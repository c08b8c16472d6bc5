"""The metrics of one optimizer step: summed over micro-batches and ranks, then reported as one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

Metrics = Mapping[str, Tensor | float]


class StepMetrics(dict[str, float]):
    """Sums of this rank by name.

    Attributes:
        replicated: names of metrics that every rank computes alike; they are not summed over ranks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replicated: set[str] = set()

    def add(self, metrics: Metrics) -> None:
        """Add contributions of this rank and micro-batch, already normalised by the whole step."""
        for name, value in metrics.items():
            self[name] = self.get(name, 0.0) + float(value)

    def add_replicated(self, metrics: Metrics) -> None:
        """Add metrics that every rank computes alike."""
        self.add(metrics)
        self.replicated |= metrics.keys()

    def reduce(self, gather: Callable[[dict[str, float]], list[dict[str, float]]]) -> dict[str, float]:
        """The row of the step, the same on every rank; clears the sums for the next step."""
        replicated = {name: self[name] for name in self if name in self.replicated}
        summed = {name: self[name] for name in self if name not in replicated}
        row = reduce_over_ranks(gather(summed)) | replicated
        self.clear()
        self.replicated.clear()
        return row


def reduce_over_ranks(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums over ranks; of durations (``time/*``) the maximum, since the other ranks waited for the slowest."""
    totals: dict[str, float] = {}
    for name, value in (item for part in parts for item in part.items()):
        before = totals.get(name, 0.0)
        totals[name] = max(before, value) if name.startswith("time/") else before + value
    return totals
