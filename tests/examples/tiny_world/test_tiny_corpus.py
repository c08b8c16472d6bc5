"""The tiny corpus: its shares of styles and languages, training problems only, the same documents every time."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from examples.tiny_world.tiny_corpus import LANGUAGE_SHARES, QUICK_RIGHT, QUICK_RIGHT_LONG, document, quick_guess
from r1.config.build import instantiate_node
from r1.core.errors import UserError
from r1.core.types import Config
from r1.data.base import Data
from r1.data.completion import parse
from r1.data.split import split_of

NUM = 4000
SHARES = {"short": 0.4, "bare": 0.15, "untagged": 0.15, "worked": 0.3}


@pytest.fixture(scope="module")
def corpus(config: Callable[..., Config]) -> Callable[..., Data]:
    """``corpus(num_documents=10, ...)``: the dataset with these options."""

    def build(**options: Any) -> Data:
        cfg = config("data=tiny_corpus", "extensions=[examples.tiny_world]")
        shares = {f"share_{name}": share for name, share in SHARES.items() if name != "worked"}
        node = cfg["data"] | {"num_documents": NUM, "num_val": 20, "share_r1_zero": 0.2} | shares | options
        return instantiate_node(node, "data", cfg)

    return build


@pytest.fixture(scope="module")
def data(corpus: Callable[..., Data]) -> Data:
    return corpus()


def terms(prompt: str) -> list[int]:
    return [int(term) for term in prompt.removesuffix("=?").split("+")]


def style(completion: str) -> str:
    tags = [tag in completion for tag in ("<think>", "<answer>")]
    return {(True, True): "worked", (True, False): "untagged", (False, True): "short", (False, False): "bare"}[
        tuple(tags)
    ]


def near(count: int, total: int, share: float) -> bool:
    """Within four standard deviations of a share."""
    return abs(count - total * share) <= 4 * math.sqrt(total * share * (1 - share)) + 1e-9


def test_tiny_corpus_has_the_set_shares_of_styles(data: Data) -> None:
    counts = Counter(style(row["completion"]) for row in data.train)
    assert counts.total() == NUM
    for name, share in SHARES.items():
        assert near(counts[name], NUM, share), (name, counts)


def test_tiny_corpus_has_the_set_share_of_the_r1_zero_template(data: Data) -> None:
    rendered = [row["rendered"] for row in data.train if row["rendered"]]
    assert near(len(rendered), NUM, 0.2)
    assert all("<think> </think>" in text and text.endswith("Assistant:") for text in rendered)
    assert all(row["prompt"] in row["rendered"] for row in data.train if row["rendered"])


def test_quick_guess_is_right_at_its_rate() -> None:
    rng = random.Random(0)
    for count in (2, 3, 4, 5, 6, 7):
        share = QUICK_RIGHT.get(count, QUICK_RIGHT_LONG)
        right = sum(quick_guess([3] * count, rng) == 3 * count for _ in range(3000))
        assert near(right, 3000, share), count


def test_worked_answer_equals_the_result_of_its_working(data: Data) -> None:
    worked = [row for row in data.train if style(row["completion"]) == "worked"]
    assert all(parse(row["completion"]).strict for row in worked)
    assert all(parse(row["completion"]).answer == row["answer"] for row in worked)
    assert all(re.findall(r"\d+", parse(row["completion"]).thinking or "")[-1] == row["answer"] for row in worked)


@pytest.mark.parametrize(("slip_rate", "right"), [(0.0, 1.0), (1.0, 0.0)])
def test_slip_rate_decides_the_share_of_right_answers(
    corpus: Callable[..., Data], slip_rate: float, right: float
) -> None:
    shares = {"share_short": 0.0, "share_bare": 0.0, "share_untagged": 0.0}
    knobs = {"num_val": 5, "slip_rate": slip_rate, "wait_rate": 0.0, "min_terms": 2, "max_terms": 2}
    rows = corpus(num_documents=300, **knobs, **shares).train
    share = sum(row["answer"] == str(sum(terms(row["prompt"]))) for row in rows) / len(rows)
    assert share == right


def test_wait_rate_one_corrects_every_step(corpus: Callable[..., Data]) -> None:
    shares = {"share_short": 0.0, "share_bare": 0.0, "share_untagged": 0.0}
    rows = corpus(num_documents=200, slip_rate=0.0, wait_rate=1.0, **shares).train
    for row in rows:
        assert row["answer"] == str(sum(terms(row["prompt"])))
        waits = row["completion"].count("wait") + row["completion"].count("等等")
        assert waits == len(terms(row["prompt"])) - 1


def test_tiny_corpus_has_its_shares_of_languages(data: Data) -> None:
    """Mixing draws every word anew, so a short mixed answer may come out in one language."""
    worked = [row["completion"] for row in data.train if style(row["completion"]) in ("worked", "untagged")]
    both = sum("plus" in text and "加" in text for text in worked)
    chinese = sum("plus" not in text for text in worked)
    english = sum("加" not in text for text in worked)
    assert 0.6 * LANGUAGE_SHARES[2] < both / len(worked) < LANGUAGE_SHARES[2]
    assert LANGUAGE_SHARES[1] < chinese / len(worked) < LANGUAGE_SHARES[1] + 0.15
    assert LANGUAGE_SHARES[0] < english / len(worked) < LANGUAGE_SHARES[0] + 0.15


def test_train_and_val_problems_come_from_their_own_splits(data: Data) -> None:
    assert all(split_of(row["prompt"]) == "train" for row in data.train)
    assert len(data.val) == 20
    assert all(split_of(row["prompt"]) == "val" for row in data.val)
    assert all(row["answer"] == str(sum(terms(row["prompt"]))) for row in data.val)
    assert all(data.correct(row["completion"], row) for row in data.val)


def test_problems_are_in_the_set_range(corpus: Callable[..., Data]) -> None:
    rows = corpus(num_documents=500, min_terms=2, max_terms=4, max_term=5).train
    assert {len(terms(row["prompt"])) for row in rows} == {2, 3, 4}
    assert {term for row in rows for term in terms(row["prompt"])} == {1, 2, 3, 4, 5}


def test_documents_depend_on_the_seed_alone(corpus: Callable[..., Data]) -> None:
    first, again, other = corpus(num_documents=50), corpus(num_documents=50), corpus(num_documents=50, seed=1)
    assert (first.train, first.val) == (again.train, again.val)
    assert first.train != other.train
    assert corpus(num_documents=80).train[:50] == first.train


def test_shipped_recipe_leaves_room_for_worked_answers(config: Callable[..., Config]) -> None:
    """The knobs of the shipped weights: together they leave room for worked answers."""
    node = OmegaConf.create(config("experiment=tiny_base")["data"])
    assert node.num_documents == 2400 * 128  # each read once
    assert 0.2 < 1 - node.share_short - node.share_bare - node.share_untagged < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share_short": 0.8, "share_bare": 0.3}, "together exceed 1"),
        ({"min_terms": 5, "max_terms": 4}, "max_terms=4 is below"),
        ({"min_terms": 2, "max_terms": 2, "max_term": 3, "num_val": 9}, "found"),
    ],
)
def test_tiny_corpus_rejects_impossible_options(
    corpus: Callable[..., Data], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        corpus(num_documents=10, **options)


@pytest.mark.parametrize("shares", [(0.4, 0.4, 0.2), (0.7, 0.2, 0.1), (0.6, 0.3, 0.1)])
def test_shares_that_add_up_to_one_leave_no_worked_answers(
    corpus: Callable[..., Data], shares: tuple[float, float, float]
) -> None:
    short, bare, untagged = shares
    rows = corpus(num_documents=200, share_short=short, share_bare=bare, share_untagged=untagged).train
    assert "worked" not in {style(row["completion"]) for row in rows}


def test_document_has_its_style() -> None:
    rng = random.Random(0)
    documents = {name: document([1, 2, 3], name, rng, 0.0, 0.0) for name in SHARES}
    assert {name: style(row["completion"]) for name, row in documents.items()} == {name: name for name in SHARES}
    assert documents["bare"]["completion"] == documents["bare"]["answer"]
    assert documents["worked"]["answer"] == documents["untagged"]["answer"] == "6"
