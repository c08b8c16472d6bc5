"""Every reward term of conf/reward/terms on any text: the right length, numbers or None, in bounded time."""

from __future__ import annotations

import inspect
import math
import time
from functools import cache, partial
from typing import Any

import pytest
from hydra.utils import get_method
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from options import HARD_TEXTS, FilledRow, build_option, option_names, suitable_filler, texts

from r1.core.paths import CONF
from r1.data.base import Row, as_verifier
from r1.data.columns import RESERVED
from r1.data.verifier.exact import exact
from r1.reward.base import Rewards, Scores, Term, required_columns
from r1.reward.scorer import Scorer


def target(option: str) -> Any:
    return get_method(OmegaConf.load(CONF / "reward" / "terms" / f"{option}.yaml")["_target_"])


def is_scored_by_a_model(option: str) -> bool:
    """Those are tested with a model: test_judge.py, test_preference.py."""
    return inspect.isclass(target(option)) and issubclass(target(option), Scorer)


TERMS = [option for option in option_names("reward/terms") if not is_scored_by_a_model(option)]
build = cache(partial(build_option, "reward/terms"))


@cache
def filler(option: str) -> Any:
    return suitable_filler(lambda value: score_with(value, option, ["3+5=?"], ["8"]))


def score(option: str, prompts: list[str], completions: list[str]) -> Scores:
    return score_with(filler(option), option, prompts, completions)


def score_with(value: Any, option: str, prompts: list[str], completions: list[str]) -> Scores:
    """With ``value`` in every column of its own that the term needs, by its signature or in ``rows``."""
    function = build(option)
    extra = dict.fromkeys(required_columns(function) - {*RESERVED, "prompt", "answer"}, value)
    rows: list[Row] = [FilledRow({"prompt": prompt, "answer": "8", **extra}, value) for prompt in prompts]
    ids = [[ord(char) % 610 for char in completion[:500]] for completion in completions]
    rewards = Rewards({option: Term(option, function, 1.0)})
    return rewards.score(
        prompts, completions, rows, as_verifier(exact), ids, 64, truncated=[len(row) > 400 for row in ids]
    )


def assert_scored(option: str, scores: Scores, count: int) -> None:
    values = scores.terms[option]
    assert len(values) == len(scores.total) == count
    assert all(isinstance(value, float) and not math.isinf(value) for value in values)


@pytest.mark.parametrize("option", TERMS)
@settings(max_examples=50)
@given(pairs=st.lists(st.tuples(texts, texts), max_size=5))
def test_reward_term_scores_any_text(option: str, pairs: list[tuple[str, str]]) -> None:
    scores = score(option, [prompt for prompt, _ in pairs], [completion for _, completion in pairs])
    assert_scored(option, scores, len(pairs))


@pytest.mark.parametrize("name", HARD_TEXTS)
@pytest.mark.parametrize("option", TERMS)
def test_reward_term_scores_hard_texts_in_seconds(option: str, name: str) -> None:
    start = time.process_time()
    scores = score(option, ["3+5=?", HARD_TEXTS[name]], [HARD_TEXTS[name], "<think>8</think><answer>8</answer>"])
    assert time.process_time() - start < 10
    assert_scored(option, scores, 2)
