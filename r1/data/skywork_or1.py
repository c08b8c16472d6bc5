"""Skywork-OR1's maths (He et al. 2025, arXiv:2505.22312): huggingface.co/datasets/Skywork/Skywork-OR1-RL-Data."""

from __future__ import annotations

from typing import Unpack

from r1.data.base import Data
from r1.data.dataset import DatasetOptions, read_dataset
from r1.data.math import math_row


def skywork_or1(learns: bool, **options: Unpack[DatasetOptions]) -> Data:
    """Its rows, read as those of MATH."""
    return read_dataset(options, learns, math_row, "math")
