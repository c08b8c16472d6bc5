"""The tiny world's open-ended questions: ``3+5+?=?`` asks for a sum of one's own that begins like this.

There are many acceptable answers and no gold one. People answer as they do everywhere: some at once, some with their
working, in one language or in two, adding one number or several, and some go wrong. Readers prefer some answers to
others, for reasons that no rule of the run spells out: ``quality`` is that hidden preference, which decides the pairs
that a reward model learns from and measures what became of it (``reward/terms/tiny_open``).
"""

from __future__ import annotations

import random
import re
from functools import partial
from itertools import accumulate
from typing import Annotated, Unpack

from annotated_types import Interval

from r1.data.arithmetic import Language, perturb, worked_solution
from r1.data.base import Data, Row
from r1.data.completion import format_completion, parse
from r1.data.generated import GeneratedOptions, distinct_problems, generated_data
from r1.data.split import is_held_out
from r1.data.text import language_share

QUESTION = re.compile(r"((?:\d{1,2}+\+)++)\?=\?")
STEP = re.compile(r"(?:plus|加) (\d{1,3}) (?:is|得) (\d{1,3})")
LANGUAGES: list[list[Language]] = [["en"], ["zh"], ["en", "zh"]]
MAX_TERM = 9  # largest number
MAX_DIGITS = 1000  # of a number in a completion; Python converts no more than 4300
MIN_NUMBERS, MAX_NUMBERS = 2, 4  # numbers that a question begins with
MAX_ADDED = 3  # that people add
ENOUGH = 3  # numbers added: more do not please more
Share = Annotated[float, Interval(ge=0, le=1)]


def tiny_open(
    *,
    share_short: Share,
    share_wrong: Share,
    **options: Unpack[GeneratedOptions],
) -> Data:
    """Questions with a person's ``completion``, and with a pair of two others' answers, ``chosen`` and ``rejected``.

    Training questions may repeat, with other answers; held-out questions are all different.

    Raises:
        UserError: there are not that many different questions to hold out.
    """

    def rows(rng: random.Random, split: str, count: int) -> list[Row]:
        if split == "train":
            questions = [draw_training_numbers(rng) for _ in range(count)]
        else:
            draw = partial(draw_open_numbers, rng)
            questions = distinct_problems(draw, open_question, split, count, tries=1000 * count, hint="lower it")
        return [open_row(numbers, rng, share_short, share_wrong) for numbers in questions]

    return generated_data("tiny_open", rows, options, row_from_question=row_from_open_question)


def draw_open_numbers(rng: random.Random) -> list[int]:
    """The numbers that a question begins with."""
    return [rng.randint(1, MAX_TERM) for _ in range(rng.randint(MIN_NUMBERS, MAX_NUMBERS))]


def draw_training_numbers(rng: random.Random) -> list[int]:
    """The numbers of a question that is not held out."""
    while is_held_out(open_question(numbers := draw_open_numbers(rng))):
        pass
    return numbers


def open_question(numbers: list[int]) -> str:
    return f"{'+'.join(map(str, numbers))}+?=?"


def row_from_open_question(prompt: str) -> Row | None:
    """The row of a question typed by hand, or None if it is no question of this kind."""
    return {"prompt": prompt} if QUESTION.fullmatch(prompt) else None


def open_row(numbers: list[int], rng: random.Random, share_short: float, share_wrong: float) -> Row:
    """A question, one person's answer, and two others' of which people prefer one."""
    prompt = open_question(numbers)
    completion, one, other = (sample_answer(numbers, rng, share_short, share_wrong) for _ in range(3))
    while quality(prompt, one) == quality(prompt, other):
        one, other = (sample_answer(numbers, rng, share_short, share_wrong) for _ in range(2))
    rejected, chosen = sorted((one, other), key=lambda text: quality(prompt, text) or 0.0)
    return {"prompt": prompt, "completion": completion, "chosen": chosen, "rejected": rejected}


def sample_answer(numbers: list[int], rng: random.Random, share_short: float, share_wrong: float) -> str:
    """One person's answer: with or without working, right or wrong, in one language or in two."""
    terms = numbers + [rng.randint(1, MAX_TERM) for _ in range(rng.randint(1, MAX_ADDED))]
    answer = str(perturb(sum(terms), rng) if rng.random() < share_wrong else sum(terms))
    if rng.random() < share_short:
        return f"<answer>{answer}</answer>"
    return format_completion(worked_solution(terms, rng, rng.choice(LANGUAGES)), answer)


def quality(prompt: str, completion: str) -> float | None:
    """The hidden preference, 0 to 1; None if ``prompt`` is no question of this kind.

    0 for an answer without a number, or whose working begins otherwise than asked; 1/4 for one without any working that
    such a sum can have. One with its working earns 1/4, and up to 1/4 each for being right at every step, for keeping
    to one language and for adding several numbers (three are enough).
    """
    question = QUESTION.fullmatch(prompt)
    if question is None:
        return None
    numbers = [int(number) for number in re.findall(r"\d+", question[1])]
    parsed = parse(completion)
    answer = int(parsed.answer or 0) if re.fullmatch(r"\d{1,3}", parsed.answer or "") else 0
    if parsed.thinking is None:
        return 0.25 if answer > sum(numbers) else 0.0
    terms, totals = parse_working(parsed.thinking)
    num_added = len(terms) - len(numbers)
    if not parsed.strict or answer == 0 or terms[: len(numbers)] != numbers or num_added == 0:
        return 0.0
    right = [*accumulate(terms)] == totals and totals[-1] == answer
    one_language = max(language_share(parsed.thinking, "en"), language_share(parsed.thinking, "zh"))
    return (1 + right + one_language + min(num_added, ENOUGH) / ENOUGH) / 4


def parse_working(thinking: str) -> tuple[list[int], list[int]]:
    """The numbers that a working adds up, and its running totals; empty if it holds any other number, or a huge one."""
    numbers, steps = re.findall(r"\d+", thinking), STEP.findall(thinking)
    if len(numbers) != 1 + 2 * len(steps) or max(map(len, numbers)) > MAX_DIGITS:
        return [], []
    first = int(numbers[0])
    return [first, *(int(term) for term, _ in steps)], [first, *(int(total) for _, total in steps)]
