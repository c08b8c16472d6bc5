"""The tiny world's open-ended questions: ``20=3+5+?`` asks for a sum that begins like this and makes 20.

There are many acceptable answers and no gold one. People answer as they do everywhere: some at once, some with their
working, in one language or two, with few numbers or with several, and some miss the target. Readers prefer some answers
to others, for reasons that no rule of the run spells out: ``quality`` is that hidden preference, which decides the
pairs that a reward model learns from and measures what became of it (``reward/terms/tiny_open``).
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from typing import Annotated, Unpack

from annotated_types import Ge, Interval

from r1.completion import parse
from r1.data.arithmetic import Language, tagged, worked
from r1.data.base import Data, Row, Shared
from r1.errors import DATA, UserError
from r1.reward.terms.language import language_share

QUESTION = re.compile(r"(\d{1,3})=((?:\d{1,2}\+)+)\?")
STEP = re.compile(r"(?:plus|加) (\d{1,3}) (?:is|得) (\d{1,3})")
LANGUAGES: list[list[Language]] = [["en"], ["zh"], ["en", "zh"]]
MAX_TERM, MAX_ADDED = 9, 4  # largest number; numbers that are added at most
MIN_REST, MAX_REST = 4, 20  # what is left to add
ENOUGH = 4  # different numbers: more do not please more
Share = Annotated[float, Interval(ge=0, le=1)]


def tiny_open(
    *,
    num_train: Annotated[int, Ge(1)],
    num_val: Annotated[int, Ge(1)],
    share_short: Share,
    share_wrong: Share,
    seed: Annotated[int, Ge(0)],
    **shared: Unpack[Shared],
) -> Data:
    """Questions with a person's ``completion``, and with a pair of two others' answers, ``chosen`` and ``rejected``.

    Raises:
        UserError: there are not that many different questions to hold out.
    """

    def rows(split: str, count: int) -> list[Row]:
        rng = random.Random(f"tiny_open/{split}/{seed}")
        asked = questions(rng, split)
        found = [next(asked) for _ in range(count)] if split == "train" else different(asked, count)
        return [row(target, given, rng, share_short, share_wrong) for target, given in found]

    return Data(train=rows("train", num_train), val=rows("val", num_val), ask=ask, **shared)


def questions(rng: random.Random, split: str) -> Iterator[tuple[int, list[int]]]:
    """(target, first numbers) of one split for ever; one question in ten is held out, by its hash."""
    while True:
        given = [rng.randint(1, MAX_TERM) for _ in range(rng.randint(1, 2))]
        target = sum(given) + rng.randint(MIN_REST, MAX_REST)
        held = hashlib.sha256(question(target, given).encode()).digest()[0] % 10 == 0
        if held == (split == "val"):
            yield target, given


def different(asked: Iterator[tuple[int, list[int]]], count: int) -> list[tuple[int, list[int]]]:
    found: dict[str, tuple[int, list[int]]] = {}
    for _ in range(100 * count):
        target, given = next(asked)
        found.setdefault(question(target, given), (target, given))
        if len(found) == count:
            return list(found.values())
    what = f"there are not that many different questions to hold out: {len(found)} were found"
    raise UserError(what, where="data.num_val", given=count, do="lower it", code=DATA)


def question(target: int, given: list[int]) -> str:
    return f"{target}={'+'.join(map(str, given))}+?"


def ask(prompt: str) -> Row | None:
    """The row of a question typed by hand, or None if it is no question of this kind."""
    return {"prompt": prompt} if QUESTION.fullmatch(prompt) else None


def row(target: int, given: list[int], rng: random.Random, share_short: float, share_wrong: float) -> Row:
    prompt = question(target, given)

    def person() -> str:
        return answered(target, given, rng, share_short, share_wrong)

    completion, one, other = person(), person(), person()
    while quality(prompt, one) == quality(prompt, other):
        one, other = person(), person()
    rejected, chosen = sorted((one, other), key=lambda text: quality(prompt, text) or 0.0)
    return {"prompt": prompt, "completion": completion, "chosen": chosen, "rejected": rejected}


def answered(target: int, given: list[int], rng: random.Random, share_short: float, share_wrong: float) -> str:
    """One person's answer, in a style of theirs."""
    rest = target - sum(given)
    rest = max(1, rest + rng.choice([-2, -1, 1, 2])) if rng.random() < share_wrong else rest
    terms = [*given, *added(rest, rng)]
    text = "+".join(map(str, terms))
    if rng.random() < share_short:
        return f"<answer>{text}</answer>"
    return tagged(worked(terms, rng, rng.choice(LANGUAGES)), text)


def added(rest: int, rng: random.Random) -> list[int]:
    """``rest`` as a sum of up to four numbers of 1 to 9, how many being drawn first."""
    count = rng.randint(-(-rest // MAX_TERM), min(rest, MAX_ADDED))
    terms = []
    for left in range(count - 1, -1, -1):
        terms.append(rng.randint(max(1, rest - MAX_TERM * left), min(MAX_TERM, rest - left)))
        rest -= terms[-1]
    return terms


def quality(prompt: str, completion: str) -> float | None:
    """The hidden preference, 0 to 1; None if ``prompt`` is no question of this kind.

    0 for an answer that is no sum, begins otherwise or misses the target; else the mean of 1, whether the working shows
    each step of this very sum, how much of it is in one language, and different numbers (up to four) / 4.
    """
    asked = QUESTION.fullmatch(prompt)
    if asked is None:
        return None
    parsed = parse(completion)
    answer = parsed.answer or ""
    if not re.fullmatch(r"\d{1,3}(?:\+\d{1,3})+", answer) or not f"{answer}+".startswith(asked[2]):
        return 0.0
    terms = [int(term) for term in answer.split("+")]
    if sum(terms) != int(asked[1]):
        return 0.0
    thinking = parsed.thinking or ""
    steps = [(str(term), str(sum(terms[: n + 1]))) for n, term in enumerate(terms) if n]
    explained = parsed.strict and STEP.findall(thinking) == steps
    one_language = max(language_share(thinking, "en"), language_share(thinking, "zh"))
    return (1 + explained + one_language + min(len(set(terms)), ENOUGH) / ENOUGH) / 4
