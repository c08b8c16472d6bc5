"""The countdown game: make a target from given numbers with + - * / (TinyZero's task, here exact and seeded).

A problem is made by playing it: two of the numbers are joined, then the result with a third, until one is
left, which becomes the target. So a solution is known. Train and held-out problems never overlap: the split
is a property of the problem (a hash of its sorted numbers and its target), not of the order in which they
are drawn.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Unpack

from annotated_types import Ge

from r1.core.errors import DATA, UserError
from r1.data.arithmetic import tagged
from r1.data.base import Data, DataOptions, Row

TRIES = 1000  # per wanted problem
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b if a % b == 0 else 0,  # 0 stands for "not allowed"
}


@dataclass(frozen=True)
class Problem:
    """``numbers`` to use once each, the ``target``, and a way there: an ``expression`` and its ``steps``."""

    numbers: tuple[int, ...]
    target: int
    expression: str
    steps: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{sorted(self.numbers)}={self.target}"


def countdown(
    *,
    num_train: Annotated[int, Ge(1)],
    num_val: Annotated[int, Ge(1)],
    min_numbers: Annotated[int, Ge(2)],
    max_numbers: Annotated[int, Ge(2)],
    max_number: Annotated[int, Ge(1)],
    seed: Annotated[int, Ge(0)],
    **shared: Unpack[DataOptions],
) -> Data:
    """``min_numbers`` to ``max_numbers`` numbers per problem; none, target included, is above ``max_number``.

    Raises:
        UserError: if ``max_numbers < min_numbers``, or the range holds too few different problems.
    """
    if max_numbers < min_numbers:
        raise UserError(
            f"max_numbers is below min_numbers={min_numbers}",
            key=".max_numbers",
            value=max_numbers,
            expected=f"whole number >= {min_numbers}",
        )

    def rows(split: str, count: int) -> list[Row]:
        rng = random.Random(f"countdown/{split}/{seed}")
        drawn = problems(rng, split, count, (min_numbers, max_numbers), max_number)
        return [row(problem) for problem in drawn]

    return Data(train=rows("train", num_train), val=rows("val", num_val), **shared)


def row(problem: Problem) -> Row:
    return {
        "prompt": question(problem.numbers, problem.target),
        "answer": problem.expression,
        "completion": tagged(" " + ", ".join(problem.steps) + ".", problem.expression),
        "numbers": list(problem.numbers),
        "target": problem.target,
    }


def question(numbers: tuple[int, ...], target: int) -> str:
    return (
        f"Using the numbers {list(numbers)}, write an expression that equals {target}. "
        "You may use + - * / and parentheses, and must use each number exactly once."
    )


def split_of(problem: Problem) -> str:
    """Which split a problem belongs to: one in ten is held out."""
    digest = hashlib.sha256(problem.key.encode()).digest()
    return "val" if digest[0] % 10 == 0 else "train"


def problems(rng: random.Random, split: str, count: int, lengths: tuple[int, int], max_number: int) -> list[Problem]:
    """``count`` different problems of one split, the number of numbers uniform."""
    seen: dict[str, Problem] = {}
    for _ in range(count * TRIES):
        numbers = tuple(rng.randint(1, max_number) for _ in range(rng.randint(*lengths)))
        problem = play(rng, numbers, max_number)
        if split_of(problem) == split:
            seen.setdefault(problem.key, problem)
        if len(seen) == count:
            return list(seen.values())
    raise UserError(
        f"there are not that many different problems: found {len(seen)}",
        key=f".num_{split}",
        value=count,
        hint="lower it, or raise max_numbers or max_number",
        code=DATA,
    )


def play(rng: random.Random, numbers: tuple[int, ...], max_number: int) -> Problem:
    """Join two numbers at a time until one is left; every result is a whole number, 1 to ``max_number``."""
    pool = [(number, str(number)) for number in numbers]
    steps: list[str] = []
    while len(pool) > 1:
        (a, left), (b, right) = (pool.pop(rng.randrange(len(pool))) for _ in range(2))
        if a < b:
            (a, left), (b, right) = (b, right), (a, left)
        results = {sign: operation(a, b) for sign, operation in OPERATIONS.items()}
        # Never empty: a - b is allowed unless a == b, and then a / b is.
        sign = rng.choice([sign for sign, result in results.items() if 1 <= result <= max_number])
        steps.append(f"{a} {sign} {b} = {results[sign]}")
        pool.append((results[sign], f"{bracketed(left)} {sign} {bracketed(right)}"))
    return Problem(numbers, pool[0][0], pool[0][1], tuple(steps))


def bracketed(expression: str) -> str:
    return f"({expression})" if " " in expression else expression
