"""The knobs that benchmarks share."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from r1.data.dataset import DatasetOptions


class BenchmarkOptions(DatasetOptions):
    """The knobs of a benchmark.

    Attributes:
        num_prompts: its questions; ``val.num_prompts`` takes it.
        num_samples: completions per question of its protocol; ``val.num_samples`` takes it.
    """

    num_prompts: Annotated[int, Ge(1)]
    num_samples: Annotated[int, Ge(1)]
