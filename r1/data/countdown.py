"""The countdown game: make a target from some numbers with + - * / (TinyZero's task, here exact and seeded).

A problem is drawn by playing the game: two of the numbers are joined, then the result with a third, until one is left,
which becomes the target. So a solution is known. The split goes by the sorted numbers and the target: the same problem
with its numbers in another order is on the same side.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Unpack

from annotated_types import Ge

from r1.core.errors import UserError
from r1.data.base import Data, Row
from r1.data.completion import format_completion
from r1.data.generated import GeneratedOptions, distinct_problems, generated_data

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
        """Equal for the same numbers in any order."""
        return f"{sorted(self.numbers)}={self.target}"


def countdown(
    *,
    min_numbers: Annotated[int, Ge(2)],
    max_numbers: Annotated[int, Ge(2)],
    max_number: Annotated[int, Ge(1)],
    **options: Unpack[GeneratedOptions],
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

    def rows(rng: random.Random, split: str, count: int) -> list[Row]:
        problems = distinct_problems(
            lambda: play(rng, draw_numbers(rng, min_numbers, max_numbers, max_number), max_number),
            lambda problem: problem.key,
            split,
            count,
            tries=count * TRIES,
            hint="lower it, or raise max_numbers or max_number",
        )
        return [countdown_row(problem) for problem in problems]

    return generated_data("countdown", rows, options)


def countdown_row(problem: Problem) -> Row:
    return {
        "prompt": countdown_question(problem.numbers, problem.target),
        "answer": problem.expression,
        "completion": format_completion(" " + ", ".join(problem.steps) + ".", problem.expression),
        "numbers": list(problem.numbers),
        "target": problem.target,
    }


def countdown_question(numbers: tuple[int, ...], target: int) -> str:
    return (
        f"Using the numbers {list(numbers)}, write an expression that equals {target}. "
        "You may use + - * / and parentheses, and must use each number exactly once."
    )


def draw_numbers(rng: random.Random, min_numbers: int, max_numbers: int, max_number: int) -> tuple[int, ...]:
    """The count of numbers is uniform, and so is each number."""
    return tuple(rng.randint(1, max_number) for _ in range(rng.randint(min_numbers, max_numbers)))


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
