"""Filters: bounds on the values of reward terms, in their order; every option on answers that a person can judge."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from r1.config.build import build_filters
from r1.core.errors import REWARD, UserError
from r1.data.base import as_verifier
from r1.reward.base import RewardFunction
from r1.stage.distillation.filters import Filter, Filters

Compose = Callable[..., dict[str, Any]]
GOOD = "<think> 3 plus 5 is 8, no doubt.</think>\n<answer>8</answer>"


def by_length(completions: list[str]) -> list[float | None]:
    """Two for every character; None, which does not apply, for an empty text."""
    return [2.0 * len(text) or None for text in completions]


def rejected(chosen: Filters, texts: list[str], **given: Any) -> list[str | None]:
    row = {"prompt": "3+5=?", "answer": "8"}
    return chosen.rejected_by(
        **{
            "rows": [row] * len(texts),
            "completions": texts,
            "completion_ids": [[7] * 9] * len(texts),
            "truncated": [False] * len(texts),
            "verifier": as_verifier(lambda answer, row: answer == row["answer"]),
            "max_completion_length": 64,
        }
        | given
    )


@pytest.mark.parametrize(
    ("low", "high", "accepted"),
    [(4.0, None, [4, 6, 8]), (None, 6.0, [2, 4, 6]), (4.0, 6.0, [4, 6]), (5.0, 5.0, [])],
)
def test_filter_accepts_values_within_bounds(low: float | None, high: float | None, accepted: list[float]) -> None:
    one = Filter("one", by_length, low, high)
    assert [value for value in (2, 4, 6, 8) if one.accepts(value)] == accepted
    assert one.accepts(math.nan), "a term that does not apply rejects nothing"


def test_rejected_by_names_first_filter_and_later_filters_get_the_rest() -> None:
    seen: list[list[str]] = []

    def spy(completions: list[str]) -> list[float | None]:
        seen.append(completions)
        return by_length(completions)

    chosen = Filters([Filter("short", spy, 4, None), Filter("long", spy, None, 6), Filter("none", spy, 99, None)])
    assert rejected(chosen, ["a", "bb", "", "cccc", "ddd"]) == ["short", "none", None, "long", "none"]
    assert seen == [["a", "bb", "", "cccc", "ddd"], ["bb", "", "cccc", "ddd"], ["bb", "", "ddd"]]


def test_filter_is_not_called_without_remaining_answers() -> None:
    def once(completions: list[str], level: list[int]) -> list[float | None]:
        raise AssertionError("nobody is left to be asked about")

    chosen = Filters([Filter("all", by_length, 99, None), Filter("once", once, 1, None)])
    assert rejected(chosen, ["a", "b"]) == ["all", "all"]
    assert rejected(chosen, []) == []
    assert rejected(Filters([]), ["a"]) == [None]


def test_failing_term_error_has_filter_key() -> None:
    def fails(completions: list[str]) -> list[float | None]:
        raise RuntimeError("boom")

    with pytest.raises(UserError, match="boom") as caught:
        rejected(Filters([Filter("mine", fails, 1, None)]), ["a"])
    assert (caught.value.key, caught.value.code) == ("stage.filters.mine", REWARD)


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        ("verifier", {}, {"texts": [GOOD.replace("<answer>8", "<answer>9")]}),
        ("finished", {}, {"truncated": [True]}),
        ("length", {}, {"completion_ids": [[7] * 4097]}),
        ("language", {}, {"texts": [GOOD.replace("plus", "加")]}),
        ("format", {}, {"texts": [GOOD + "!"]}),
        ("duplicates", {"texts": [GOOD, "other"]}, {"texts": ["other", GOOD, GOOD.replace("plus", "PLUS ")]}),
        ("repetition", {}, {"texts": ["so it goes " * 9]}),
    ],
)
def test_filter_option_accepts_good_and_rejects_bad_answer(
    config: Compose, option: str, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    cfg = config("stage=distill", f"+stage/filters@stage.filters.it={option}")
    (chosen,) = (one for one in build_filters(cfg).filters if one.name == "it")
    assert rejected(Filters([chosen]), **{"texts": [GOOD]} | good)[-1] is None
    assert rejected(Filters([chosen]), **{"texts": [GOOD]} | bad)[-1] == "it"


def test_verifier_filter_accepts_questions_without_gold_answer(config: Compose) -> None:
    chosen = build_filters(config("stage=distill"))
    assert [(one.name, one.min) for one in chosen.filters] == [("finished", 1.0), ("verifier", 1.0)]
    rows = [{"prompt": "Who are you?"}, {"prompt": "3+5=?", "answer": "9"}, {"prompt": "Why?"}]
    assert rejected(chosen, [GOOD] * 3, rows=rows, truncated=[False, False, True]) == [None, "verifier", "finished"]


def test_overrides_add_change_and_remove_filters(config: Compose) -> None:
    cfg = config(
        "stage=distill",
        "~stage.filters.verifier",
        "+stage/filters@stage.filters.brief=length",
        "stage.filters.brief.max=9",
    )
    assert [(one.name, one.min, one.max) for one in build_filters(cfg).filters] == [
        ("finished", 1, None),
        ("brief", 1, 9),
    ]


def test_reward_function_can_be_a_filter(config: Compose) -> None:
    node = f"{{_target_: {by_length.__module__}.by_length, _partial_: true, min: 3, max: null}}"
    cfg = config("stage=distill", f"extensions=[{by_length.__module__}]", f"+stage.filters.mine={node}")
    mine: RewardFunction = build_filters(cfg).filters[-1].function
    assert mine(completions=["ab", ""]) == [4.0, None]
