"""AIME 2024: huggingface.co/datasets/HuggingFaceH4/aime_2024."""

from __future__ import annotations

from typing import Unpack

from r1.data.base import Data
from r1.data.benchmark import BenchmarkOptions
from r1.data.dataset import read_dataset
from r1.data.math import math_row


def aime24(learns: bool, **options: Unpack[BenchmarkOptions]) -> Data:
    """Its rows, read as those of MATH."""
    return read_dataset(options, learns, math_row, "math")
