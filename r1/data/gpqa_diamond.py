"""GPQA (Rein et al. 2023, arXiv:2311.12022): huggingface.co/datasets/Idavidrein/gpqa."""

from __future__ import annotations

from typing import Unpack

from r1.data.base import Data
from r1.data.multiple_choice import ChoiceBenchmarkOptions, read_choices


def gpqa_diamond(learns: bool, **options: Unpack[ChoiceBenchmarkOptions]) -> Data:
    """Its rows, of each configuration; the options are the right answer and the three incorrect ones."""
    return read_choices(options, learns)
