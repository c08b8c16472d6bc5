"""Grade-school word problems (Cobbe et al., 2021, arXiv:2110.14168): a worked solution, then its answer."""

from __future__ import annotations

import re
from functools import partial
from typing import Unpack

from r1.core.errors import DATA, UserError
from r1.data.base import Data, Row
from r1.data.completion import format_completion
from r1.data.hub import HubOptions, hub_data, text_value

CALCULATOR = re.compile(r"<<[^<>]*>>")  # <<48/2=24>>: a tool's notes, not part of the text


def gsm8k(*, answer_column: str, **options: Unpack[HubOptions]) -> Data:
    """Rows of GSM8K, or of any dataset written like it; further columns are kept.

    Raises:
        UserError: the dataset cannot be read, or an answer has no ``####``.
    """
    prompt_column = options["prompt_column"]
    return hub_data(options, {"answer_column": answer_column}, partial(gsm8k_row, prompt_column, answer_column))


def gsm8k_row(prompt_column: str, answer_column: str, source: Row, location: str) -> Row:
    """The solution without the calculator's notes as thinking, and the number behind ``####`` as the answer."""
    solution, mark, answer = text_value(source, answer_column, "answer_column", location).rpartition("####")
    if not mark:
        raise UserError(
            f"{location}: the solution does not end in `#### answer`",
            key=".answer_column",
            value=answer[-80:],
            hint="data=jsonl for questions with plain answers",
            code=DATA,
        )
    answer = answer.strip().replace(",", "")
    thinking = CALCULATOR.sub("", solution).strip()
    completion = format_completion(f"\n{thinking}\n", answer)
    return {**source, "prompt": source[prompt_column], "answer": answer, "completion": completion}
