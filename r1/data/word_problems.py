"""Small problems in English, made on the spot: ten tasks that a model of 100M parameters solves now and then.

Names, things and numbers are drawn; a worked solution comes with each. The problems of the held-out split are new,
but their sums are small enough to occur in training too, with other names and things.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple, Unpack

from r1.core.errors import UserError
from r1.data.base import Data, Row
from r1.data.completion import format_completion
from r1.data.generated import GeneratedOptions, distinct_problems, generated_data

TRIES = 200  # per wanted problem
NAMES, THINGS, NUMBERS, WORDS, PRAISE, BLAME = map(
    str.split,
    (
        "Anna Ben Clara David Emma Finn Grace Henry Iris Jack Kate Liam Mia Noah Olga Paul Rosa Sam Tina Victor",
        "apples books pencils marbles coins stickers cookies balloons shells stamps cards flowers",
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty",
        "banana letter coffee summer pepper butter rabbit yellow dinner kitten apple happy school tomato garden window "
        "orange market silver monkey table house river bread chair cloud dream eagle grape horse knife lemon money "
        "night ocean piano queen robot sugar tiger uncle voice water",
        "wonderful great lovely delicious brilliant excellent charming superb",
        "awful terrible boring dirty rude disappointing broken horrible",
    ),
)
KINDS = {
    "animal": "dog cat horse cow lion tiger rabbit sheep goat bear wolf fox",
    "fruit": "apple banana pear grape lemon cherry peach plum mango",
    "tool": "hammer saw drill wrench screwdriver shovel axe pliers",
    "colour": "red blue green yellow purple black white",
    "vehicle": "car bus train truck bicycle boat plane tram",
    "body part": "hand foot nose ear arm knee elbow shoulder",
}
GAINS = ["finds {} more", "buys {} more", "gets {} more from a friend"]
LOSSES = ["gives {} away", "loses {}", "sells {}"]
LETTERS = "abcdefghiklmnoprstuvwyz"
REVIEWED = ["food", "film", "hotel room", "service", "book", "concert", "soup", "trip"]


class WordProblem(NamedTuple):
    """One problem: the ``question``, its ``answer``, and a ``solution`` that leads there."""

    question: str
    answer: str
    solution: str


def word_problems(*, tasks: list[str], **options: Unpack[GeneratedOptions]) -> Data:
    """Problems of ``tasks`` (names of ``TASKS``), equally many of each; the name is in the row's column ``task``.

    Raises:
        UserError: no task, an unknown one, or one with fewer different problems than its share.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        message = f"there is no task {unknown[0]!r}" if unknown else "there is no task"
        raise UserError(message, key=".tasks", value=tasks, expected=f"names from: {', '.join(TASKS)}")

    def rows(rng: random.Random, split: str, count: int) -> list[Row]:
        shares = {task: len(range(i, count, len(tasks))) for i, task in enumerate(tasks)}
        drawn = [row for task, share in shares.items() for row in rows_of_task(task, rng, split, share)]
        rng.shuffle(drawn)
        return drawn

    return generated_data("word_problems", rows, options)


def rows_of_task(task: str, rng: random.Random, split: str, count: int) -> list[Row]:
    """``count`` different problems of one task and split."""
    problems = distinct_problems(
        lambda: TASKS[task](rng),
        lambda problem: problem.question,
        split,
        count,
        tries=TRIES * count,
        hint=f"{task} has no more: lower it",
    )
    return [problem_row(problem, task) for problem in problems]


def problem_row(problem: WordProblem, task: str) -> Row:
    return {
        "prompt": problem.question,
        "answer": problem.answer,
        "completion": format_completion(problem.solution, problem.answer),
        "task": task,
    }


def draw_change(rng: random.Random, count: int, largest_gain: int) -> tuple[str, str, int]:
    """An event that changes ``count`` things, its sum, and how many there are then: at least one."""
    if count < 2 or rng.random() < 0.5:
        number = rng.randint(2, largest_gain)
        return rng.choice(GAINS).format(number), f"{count} + {number} = {count + number}", count + number
    number = rng.randint(1, count - 1)
    return rng.choice(LOSSES).format(number), f"{count} - {number} = {count - number}", count - number


def one_step(rng: random.Random) -> WordProblem:
    name, things, count = rng.choice(NAMES), rng.choice(THINGS), rng.randint(3, 19)
    event, sum_, left = draw_change(rng, count, 19)
    question = f"{name} has {count} {things} and {event}. How many {things} does {name} have now?"
    return WordProblem(question, str(left), f"{sum_}.")


def two_steps(rng: random.Random) -> WordProblem:
    name, things, count = rng.choice(NAMES), rng.choice(THINGS), rng.randint(3, 19)
    first, first_sum, between = draw_change(rng, count, 15)
    second, second_sum, left = draw_change(rng, between, 15)
    question = f"{name} has {count} {things}. {name} {first} and then {second}. How many {things} does {name} have now?"
    return WordProblem(question, str(left), f"{first_sum}, {second_sum}.")


def boxes(rng: random.Random) -> WordProblem:
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    number, size = rng.randint(2, 9), rng.randint(2, 9)
    event, sum_, left = draw_change(rng, number * size, 9)
    question = (
        f"{name} has {number} boxes with {size} {things} in each and {event}. How many {things} does {name} have now?"
    )
    return WordProblem(question, str(left), f"{number} x {size} = {number * size}, {sum_}.")


def number_words(rng: random.Random) -> WordProblem:
    a, b, c = (rng.randint(1, 20) for _ in range(3))
    question = f"What is {NUMBERS[a]} plus {NUMBERS[b]} plus {NUMBERS[c]}? Give a number."
    return WordProblem(question, str(a + b + c), f"{a} + {b} = {a + b}, {a + b} + {c} = {a + b + c}.")


def equation(rng: random.Random) -> WordProblem:
    x, factor, term = rng.randint(1, 12), rng.randint(2, 5), rng.randint(1, 20)
    product = factor * x
    return WordProblem(
        f"Solve for x: {factor}x + {term} = {product + term}.", str(x), f"{factor}x = {product}, x = {x}."
    )


def largest(rng: random.Random) -> WordProblem:
    numbers = rng.sample(range(10, 1000), 3)
    top = max(numbers)
    others = " and ".join(str(number) for number in numbers if number != top)
    question = f"Which number is the largest: {numbers[0]}, {numbers[1]} or {numbers[2]}?"
    return WordProblem(question, str(top), f"{top} is larger than {others}.")


def backwards(rng: random.Random) -> WordProblem:
    letters = rng.sample(LETTERS, rng.choice([3, 4]))
    solution = f"The last letter is {letters[-1]}, the first is {letters[0]}."
    return WordProblem(f"Write the letters of {' '.join(letters)} backwards.", "".join(reversed(letters)), solution)


def odd_one_out(rng: random.Random) -> WordProblem:
    kind, other = rng.sample(sorted(KINDS), 2)
    odd = rng.choice(KINDS[other].split())
    words = [*rng.sample(KINDS[kind].split(), 3), odd]
    rng.shuffle(words)
    question = f"Which of these does not belong to the others: {', '.join(words)}?"
    return WordProblem(question, odd, f"The others are of the kind {kind}.")


def alphabet(rng: random.Random) -> WordProblem:
    words = rng.sample(WORDS, 3)
    question = f"Which word comes first in the alphabet: {', '.join(words)}?"
    return WordProblem(question, min(words), f"In order: {', '.join(sorted(words))}.")


def opinion(rng: random.Random) -> WordProblem:
    (first, then), is_good = (rng.choice(PRAISE), rng.choice(BLAME)), rng.random() < 0.5
    first, then = (then, first) if is_good else (first, then)
    a, b = rng.sample(REVIEWED, 2)
    question = (
        "Is the writer's final opinion positive or negative? "
        f"The {a} was {first}, but in the end the {b} was {then} and that is what counts."
    )
    return WordProblem(question, "positive" if is_good else "negative", f"What counts was {then}.")


TASKS: dict[str, Callable[[random.Random], WordProblem]] = {
    task.__name__: task
    for task in (
        one_step,
        two_steps,
        boxes,
        number_words,
        equation,
        largest,
        backwards,
        odd_one_out,
        alphabet,
        opinion,
    )
}
