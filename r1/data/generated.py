"""Base of generated datasets: their options, their seed, and the draw of different problems for each split."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from annotated_types import Ge

from r1.core.errors import DATA, UserError
from r1.data.base import Data, DataOptions, Row, data_options
from r1.data.rows import Rows
from r1.data.split import split_of

Problem = TypeVar("Problem")
MakeRows = Callable[[random.Random, str, int], list[Row]]
"""``make_rows(rng, split, count)``: ``count`` rows of one split, ``train`` or ``val``."""


class GeneratedOptions(DataOptions):
    """The knobs that every generated dataset has.

    ``seed`` is a constant of the dataset and not the run's seed: runs with different seeds share their data.
    """

    num_train: Annotated[int, Ge(1)]
    num_val: Annotated[int, Ge(1)]
    seed: Annotated[int, Ge(0)]


def generated_data(name: str, make_rows: MakeRows, options: GeneratedOptions, **fields: Any) -> Data:
    """Rows of both splits, each drawn from its own generator, which ``name``, the split and the seed decide."""

    def rows(split: str, count: int) -> Rows:
        return Rows.of(make_rows(random.Random(f"{name}/{split}/{options['seed']}"), split, count))

    train, val = rows("train", options["num_train"]), rows("val", options["num_val"])
    return Data(train=train, val=val, **data_options(options), **fields)


def distinct_problems(
    draw: Callable[[], Problem], text_of: Callable[[Problem], str], split: str, count: int, tries: int, hint: str
) -> list[Problem]:
    """``count`` different problems of one split, in the order in which they are drawn.

    Args:
        text_of: the text that tells problems apart and whose hash decides the split.
        tries: problems drawn, at most.

    Raises:
        UserError: fewer problems were found.
    """
    problems: dict[str, Problem] = {}
    for _ in range(tries):
        problem = draw()
        text = text_of(problem)
        if split_of(text) == split:
            problems.setdefault(text, problem)
        if len(problems) == count:
            return list(problems.values())
    message = f"there are not that many different problems: {len(problems)} were found"
    raise UserError(message, key=f".num_{split}", value=count, hint=hint, code=DATA)
