"""The pre-training corpus of the shipped models: a mixture of how people answer sums on the web.

Most answer at once and are mostly wrong on longer sums; some work the sum out and are mostly right, in English, in
Chinese, or mixing the two; some forget the tags. No single behaviour is reinforced: that is left to post-training.
"""

from __future__ import annotations

import random
import re
from typing import Annotated, Unpack

from annotated_types import Ge, Interval

from r1.data.arithmetic import Language, distinct_sums, draw_sum, perturb, sum_question, sum_row, worked_solution
from r1.data.base import Data, DataOptions, Row
from r1.data.completion import format_completion
from r1.data.rows import Rows
from r1.data.split import split_of
from r1.data.template.r1_zero import R1Zero

Share = Annotated[float, Interval(ge=0, le=1)]
LANGUAGES: list[list[Language]] = [["en"], ["zh"], ["en", "zh"]]
LANGUAGE_SHARES = (0.35, 0.25, 0.40)  # a worked answer in English, in Chinese, mixing the two
QUICK_RIGHT = {2: 0.9, 3: 0.3, 4: 0.2, 5: 0.12}  # share of right answers without working, by number of terms
QUICK_RIGHT_LONG = 0.08


def tiny_corpus(
    *,
    num_documents: Annotated[int, Ge(1)],
    num_val: Annotated[int, Ge(1)],
    min_terms: Annotated[int, Ge(2)],
    max_terms: Annotated[int, Ge(2)],
    max_term: Annotated[int, Ge(1)],
    share_short: Share,
    share_bare: Share,
    share_untagged: Share,
    share_r1_zero: Share,
    slip_rate: Share,
    wait_rate: Share,
    seed: Annotated[int, Ge(0)],
    r1_zero: R1Zero,
    **shared: Unpack[DataOptions],
) -> Data:
    """``num_documents`` answers to training problems, and ``num_val`` held-out problems.

    The styles short, bare and untagged have the shares that are set; all other answers are worked and tagged.

    Raises:
        ValueError: ``max_terms < min_terms``, or the shares exceed 1.
    """
    if max_terms < min_terms:
        raise ValueError(f"data.max_terms={max_terms} is below data.min_terms={min_terms}")
    rng = random.Random(f"tiny_corpus/{seed}")
    share_worked = 1 - share_short - share_bare - share_untagged
    if share_worked < -1e-9:  # shares that add up to 1 may miss it by a rounding error
        raise ValueError("data.share_short, share_bare and share_untagged together exceed 1")
    shares = {"short": share_short, "bare": share_bare, "untagged": share_untagged, "worked": max(share_worked, 0.0)}
    train: list[Row] = []
    # nine in ten problems are training problems, so twice as many draws are enough
    for _ in range(2 * num_documents + 1000):
        terms = draw_sum(rng, min_terms, max_terms, max_term)
        if split_of(sum_question(terms)) == "train":
            style = rng.choices(list(shares), list(shares.values()))[0]
            rendered = r1_zero.fill(sum_question(terms)) if rng.random() < share_r1_zero else None
            train.append(document(terms, style, rng, slip_rate, wait_rate) | {"rendered": rendered})
        if len(train) == num_documents:
            break
    sums = distinct_sums(rng, "val", min_terms, max_terms, max_term, num_val)
    val = [sum_row(terms, worked_solution(terms, rng, ["en"])) for terms in sums]
    return Data(train=Rows.of(train), val=Rows.of(val), **shared)


def document(terms: list[int], style: str, rng: random.Random, slip_rate: float, wait_rate: float) -> Row:
    """One person's answer in a style: short, bare, untagged or worked.

    ``answer`` is the answer of the text, which may be wrong.
    """
    answer = str(quick_guess(terms, rng))
    text = {"short": f"<answer>{answer}</answer>", "bare": answer}.get(style)
    if text is None:
        languages = rng.choices(LANGUAGES, LANGUAGE_SHARES)[0]
        thinking = worked_solution(terms, rng, languages, slip_rate=slip_rate, wait_rate=wait_rate)
        answer = re.findall(r"\d+", thinking)[-1]
        text = format_completion(thinking, answer)
    if style == "untagged":
        text = text.replace("<answer>", "").replace("</answer>", "")
    return {"prompt": sum_question(terms), "answer": answer, "completion": text}


def quick_guess(terms: list[int], rng: random.Random) -> int:
    """A guess of the sum without working; the more terms, the more often it is wrong."""
    right = rng.random() < QUICK_RIGHT.get(len(terms), QUICK_RIGHT_LONG)
    return sum(terms) if right else perturb(sum(terms), rng)
