"""The part of a run's record that a stage writes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from r1.data.base import Row
    from r1.reward.base import Scores
    from r1.stage.validation.metrics import Sample
    from r1.stage.validation.sampling import ValidationCompletions


class Recorder(Protocol):
    """Keeps completions with their scores; ``r1.train.record.Record`` is one."""

    @property
    def dir(self) -> Path: ...

    def add_samples(
        self, split: str, step: int, rows: Sequence[Row], samples: Sequence[Sample], scores: Scores
    ) -> None: ...

    def add_completions(self, step: int, completions: ValidationCompletions) -> None: ...

    def add_pairs(self, split: str, step: int, rows: Sequence[Row], margins: Sequence[float]) -> None: ...

    def add_rollouts(
        self,
        step: int,
        row: Row,
        texts: Sequence[str],
        truncated: Sequence[bool],
        scores: Scores,
        advantages: Tensor,
    ) -> None: ...
