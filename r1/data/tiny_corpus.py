"""What the tiny base model has read: a mixture of how people answer sums on the web.

Most answer at once and are mostly wrong on longer sums; some work the sum out and are mostly right, in English, in
Chinese, or mixing the two; some forget the tags. No single behaviour is reinforced: that is left to post-training.
"""

from __future__ import annotations

import random
from typing import Annotated, Unpack

from annotated_types import Ge, Interval

from r1.data.arithmetic import Language, draw, near, question, split_of, tagged, worked
from r1.data.base import Data, Row, Shared

Share = Annotated[float, Interval(ge=0, le=1)]
MIXTURES: list[list[Language]] = [["en"], ["zh"], ["en", "zh"]]


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
    **shared: Unpack[Shared],
) -> Data:
    """``num_documents`` documents over training problems only; the rest of the shares is worked and tagged."""
    rng = random.Random(f"tiny_corpus/{seed}")
    drawn = draw(rng, min_terms, max_terms, max_term, tries=100 * num_documents)
    train: list[Row] = []
    while len(train) < num_documents:
        terms = next(drawn)
        if split_of(terms) == "train":
            style = rng.choices(
                ["short", "bare", "untagged", "worked"],
                [share_short, share_bare, share_untagged, 1 - share_short - share_bare - share_untagged],
            )[0]
            template = "r1_zero" if rng.random() < share_r1_zero else None
            train.append(document(terms, style, rng, slip_rate, wait_rate) | {"template": template})
    val = [document(t, "worked", rng, 0, 0) for t in drawn if split_of(t) == "val"][:num_val]
    return Data(train=train, val=val, **shared)
