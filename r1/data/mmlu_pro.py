"""MMLU-Pro (Wang et al. 2024, arXiv:2406.01574): huggingface.co/datasets/TIGER-Lab/MMLU-Pro."""

from __future__ import annotations

from typing import Unpack

from r1.data.base import Data
from r1.data.multiple_choice import ChoiceBenchmarkOptions, read_choices


def mmlu_pro(learns: bool, **options: Unpack[ChoiceBenchmarkOptions]) -> Data:
    """Its rows; ``category`` is the column ``subject``."""
    return read_choices(options, learns)
