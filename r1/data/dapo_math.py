"""DAPO-Math-17k (Yu et al. 2025, arXiv:2503.14476): competition questions whose answers are whole numbers."""

from __future__ import annotations

import re
from typing import Unpack

from r1.data.base import Data
from r1.data.columns import Row, require_text
from r1.data.dataset import DatasetOptions, read_dataset

OWN_INSTRUCTION = re.compile(
    r"\ASolve the following math problem step by step\.[^\n]*\n+"
    r'|(?<!\s)\s*+Remember to put your answer on its own line after "Answer:"\.\s*\Z'
)


def dapo_math(learns: bool, **options: Unpack[DatasetOptions]) -> Data:
    """The questions without the dataset's own instruction, ``Answer: ...``, a form that the verifier does not read.

    Raises:
        UserError: the dataset cannot be read.
    """
    return read_dataset(options, learns, dapo_row, "dapo_math")


def dapo_row(row: Row, location: str) -> Row:
    return row | {"prompt": OWN_INSTRUCTION.sub("", require_text(row, "prompt", location))}
