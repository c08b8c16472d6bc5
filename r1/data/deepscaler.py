"""DeepScaleR-Preview (Luo et al. 2025): huggingface.co/datasets/agentica-org/DeepScaleR-Preview-Dataset."""

from __future__ import annotations

from typing import Unpack

from r1.data.base import Data
from r1.data.dataset import DatasetOptions, read_dataset
from r1.data.math import math_row


def deepscaler(learns: bool, **options: Unpack[DatasetOptions]) -> Data:
    """Its rows, read as those of MATH."""
    return read_dataset(options, learns, math_row, "math")
