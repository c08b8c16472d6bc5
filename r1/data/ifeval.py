"""IFEval (Zhou et al. 2023, arXiv:2311.07911): huggingface.co/datasets/google/IFEval."""

from __future__ import annotations

from typing import Unpack

from r1.core.errors import DATA, UserError
from r1.data.base import Data
from r1.data.benchmark import BenchmarkOptions
from r1.data.columns import Row
from r1.data.dataset import read_dataset
from r1.data.verifier.instructions import instruction_error


def ifeval(learns: bool, **options: Unpack[BenchmarkOptions]) -> Data:
    """Its rows, or those of any set with its columns; the answer is the names of the instructions.

    Raises:
        UserError: the dataset cannot be read, or an instruction is unknown.
    """
    return read_dataset(options, learns, ifeval_row, "ifeval")


def ifeval_row(row: Row, location: str) -> Row:
    kinds, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if message := instruction_error(kinds, arguments):
        key = ".columns.instruction_id_list"
        raise UserError(f"{location}: {message}", key=key, value=str(kinds), code=DATA)
    return row | {"answer": ", ".join(map(str, kinds or []))}
