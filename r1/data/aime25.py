"""AIME 2025: huggingface.co/datasets/math-ai/aime25."""

from __future__ import annotations

from typing import Unpack

from r1.data.base import Data
from r1.data.benchmark import BenchmarkOptions
from r1.data.dataset import read_dataset
from r1.data.math import math_row


def aime25(learns: bool, **options: Unpack[BenchmarkOptions]) -> Data:
    """Its rows, read as those of MATH."""
    return read_dataset(options, learns, math_row, "math")
