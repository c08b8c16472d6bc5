"""The metrics of one optimizer step: added up over micro-batches and devices, then reported as one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

Metrics = Mapping[str, Tensor | float]


class StepMetrics(dict[str, float]):
    """Sums of this device by name; ``noted`` names those that every device finds alike."""

    def __init__(self) -> None:
        super().__init__()
        self.replicated: set[str] = set()

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self[name] = self.get(name, 0.0) + float(value)

    def note(self, metrics: Metrics) -> None:
        self.add(metrics)
        self.replicated |= metrics.keys()

    def close(self, gather: Callable[[dict[str, float]], list[dict[str, float]]]) -> dict[str, float]:
        """The row, the same on every device; the next one begins."""
        alike = {name: self[name] for name in self if name in self.replicated}
        row = reduce_over_ranks(gather({name: self[name] for name in self if name not in alike})) | alike
        self.clear()
        self.replicated.clear()
        return row


def reduce_over_ranks(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the devices have summed up, over all of them; of times the longest, which the others have waited for."""
    whole: dict[str, float] = {}
    for name, value in (item for part in parts for item in part.items()):
        before = whole.get(name, 0.0)
        whole[name] = max(before, value) if name.startswith("time/") else before + value
    return whole
