"""The tiny world's open-ended questions: ``3+5+?=?`` asks for a sum of one's own that begins like this.

There are many acceptable answers and no gold one. People answer as they do everywhere: some at once, some with their
working, in one language or in two, adding one number or several, and some go wrong. Readers prefer some answers to
others, for reasons that no rule of the run spells out: ``quality`` is that hidden preference, which decides the pairs
that a reward model learns from and measures what became of it (``reward/terms/tiny_open``).
"""

from __future__ import annotations

import hashlib
import random
import re
from itertools import accumulate
from typing import Annotated, Unpack

from annotated_types import Ge, Interval

from r1.core.errors import DATA, UserError
from r1.data.arithmetic import Language, perturb, tagged, worked_solution
from r1.data.base import Data, DataOptions, Row
from r1.data.completion import parse
from r1.data.text import language_share

QUESTION = re.compile(r"((?:\d{1,2}\+)+)\?=\?")
STEP = re.compile(r"(?:plus|加) (\d{1,3}) (?:is|得) (\d{1,3})")
LANGUAGES: list[list[Language]] = [["en"], ["zh"], ["en", "zh"]]
MAX_TERM = 9  # largest number
MIN_GIVEN, MAX_GIVEN = 2, 4  # numbers that a question begins with
MAX_ADDED = 3  # that people add
ENOUGH = 3  # numbers added: more do not please more
Share = Annotated[float, Interval(ge=0, le=1)]


def tiny_open(
    *,
    num_train: Annotated[int, Ge(1)],
    num_val: Annotated[int, Ge(1)],
    share_short: Share,
    share_wrong: Share,
    seed: Annotated[int, Ge(0)],
    **shared: Unpack[DataOptions],
) -> Data:
    """Questions with a person's ``completion``, and with a pair of two others' answers, ``chosen`` and ``rejected``.

    Raises:
        UserError: there are not that many different questions to hold out.
    """

    def rows(split: str, count: int) -> list[Row]:
        rng = random.Random(f"tiny_open/{split}/{seed}")
        asked = [drawn(rng, split) for _ in range(count)] if split == "train" else different(rng, split, count)
        return [row(given, rng, share_short, share_wrong) for given in asked]

    return Data(train=rows("train", num_train), val=rows("val", num_val), ask=ask, **shared)


def drawn(rng: random.Random, split: str) -> list[int]:
    """The numbers that a question begins with; one question in ten is held out, by its hash."""
    while True:
        given = [rng.randint(1, MAX_TERM) for _ in range(rng.randint(MIN_GIVEN, MAX_GIVEN))]
        if (hashlib.sha256(question(given).encode()).digest()[0] % 10 == 0) == (split == "val"):
            return given


def different(rng: random.Random, split: str, count: int) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for _ in range(100 * count):
        given = drawn(rng, split)
        found.setdefault(question(given), given)
        if len(found) == count:
            return list(found.values())
    message = f"there are not that many different questions to hold out: {len(found)} were found"
    raise UserError(message, key=".num_val", value=count, hint="lower it", code=DATA)


def question(given: list[int]) -> str:
    return f"{'+'.join(map(str, given))}+?=?"


def ask(prompt: str) -> Row | None:
    """The row of a question typed by hand, or None if it is no question of this kind."""
    return {"prompt": prompt} if QUESTION.fullmatch(prompt) else None


def row(given: list[int], rng: random.Random, share_short: float, share_wrong: float) -> Row:
    """A question, one person's answer, and two others' of which people prefer one."""
    prompt = question(given)
    completion, one, other = (answered(given, rng, share_short, share_wrong) for _ in range(3))
    while quality(prompt, one) == quality(prompt, other):
        one, other = (answered(given, rng, share_short, share_wrong) for _ in range(2))
    rejected, chosen = sorted((one, other), key=lambda text: quality(prompt, text) or 0.0)
    return {"prompt": prompt, "completion": completion, "chosen": chosen, "rejected": rejected}


def answered(given: list[int], rng: random.Random, share_short: float, share_wrong: float) -> str:
    """One person's answer, in a style of theirs."""
    terms = given + [rng.randint(1, MAX_TERM) for _ in range(rng.randint(1, MAX_ADDED))]
    answer = str(perturb(sum(terms), rng) if rng.random() < share_wrong else sum(terms))
    if rng.random() < share_short:
        return f"<answer>{answer}</answer>"
    return tagged(worked_solution(terms, rng, rng.choice(LANGUAGES)), answer)


def quality(prompt: str, completion: str) -> float | None:
    """The hidden preference, 0 to 1; None if ``prompt`` is no question of this kind.

    0 for an answer without a number, or whose working begins otherwise than asked; 1/4 for one without any working that
    such a sum can have. One with its working earns 1/4, and up to 1/4 each for being right at every step, for keeping
    to one language and for adding several numbers (three are enough).
    """
    asked = QUESTION.fullmatch(prompt)
    if asked is None:
        return None
    given = [int(number) for number in re.findall(r"\d+", asked[1])]
    parsed = parse(completion)
    answer = int(parsed.answer or 0) if re.fullmatch(r"\d{1,3}", parsed.answer or "") else 0
    if parsed.thinking is None:
        return 0.25 if answer > sum(given) else 0.0
    terms, totals = working(parsed.thinking)
    added = len(terms) - len(given)
    if not parsed.strict or answer == 0 or terms[: len(given)] != given or added == 0:
        return 0.0
    right = [*accumulate(terms)] == totals and totals[-1] == answer
    one_language = max(language_share(parsed.thinking, "en"), language_share(parsed.thinking, "zh"))
    return (1 + right + one_language + min(added, ENOUGH) / ENOUGH) / 4


def working(thinking: str) -> tuple[list[int], list[int]]:
    """The numbers that a working adds up, and its running totals; nothing if it says anything else with numbers."""
    said, steps = re.findall(r"\d+", thinking), STEP.findall(thinking)
    if len(said) != 1 + 2 * len(steps):
        return [], []
    first = int(said[0])
    return [first, *(int(term) for term, _ in steps)], [first, *(int(total) for _, total in steps)]
