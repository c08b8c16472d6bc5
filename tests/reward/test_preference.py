"""A reward model's score: transformers' own, whatever the batch; and what is no reward model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from r1.config.check.config import check_config
from r1.core.errors import MODEL, UserError
from r1.core.model_paths import resolve_model_path
from r1.reward.terms.preference import Preference

KNOBS: dict[str, Any] = {
    "dtype": "float32",
    "center": None,
    "scale": 1.0,
    "thinking": False,
    "max_length": 64,
    "batch_size": 2,
}
TEXTS = ["<think> 3 plus 5 is 8.</think>\n<answer>8</answer>", "<answer>8</answer>", "8", "well, 3 and 5 is 8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Any]) -> Path:
    """A random reward model with the tiny world's tokenizer."""
    path = tmp_path_factory.mktemp("reward_model")
    tokenizer = AutoTokenizer.from_pretrained(resolve_model_path("r1:tiny"))
    config = make_model("llama", vocab_size=len(tokenizer)).config
    config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def expected(folder: Path, prompt: str, text: str) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(
        f"User: {prompt}\nAssistant:{text}<|eos|>\n", add_special_tokens=False, return_tensors="pt"
    ).input_ids
    return float(model(ids).logits[0, 0].detach())


def test_preference_score_equals_the_models_for_any_batch(folder: Path) -> None:
    alone = [expected(folder, "3+5=?", text) for text in TEXTS]
    assert len({round(score, 4) for score in alone}) == len(TEXTS)
    for batch_size in (1, 3):
        term = Preference(path=str(folder), **KNOBS | {"thinking": True, "batch_size": batch_size})
        assert term(["3+5=?"] * 4, TEXTS) == pytest.approx(alone, abs=1e-5)


def test_preference_without_thinking_reads_only_the_answer(folder: Path) -> None:
    found = Preference(path=str(folder), **KNOBS)(
        ["q", "q"], ["<think>a</think><answer>8</answer>", "<answer>8</answer>"]
    )
    assert found[0] == found[1]


def test_center_and_scale(folder: Path) -> None:
    (raw,) = Preference(path=str(folder), **KNOBS)(["q"], ["8"])
    (moved,) = Preference(path=str(folder), **KNOBS | {"center": 1.0, "scale": 2.0})(["q"], ["8"])
    assert raw is not None
    assert moved == pytest.approx((raw - 1) * 2)


def test_a_chat_that_is_too_long_has_no_score_and_is_counted(folder: Path) -> None:
    term = Preference(path=str(folder), **KNOBS | {"max_length": 20})
    scores = term(["q"] * 3, ["8", "word " * 40, "9"])
    assert [score is None for score in scores] == [False, True, False]
    assert term.pop_error_counts() == {"too_long": 1}


def test_cached_pairs_are_not_scored_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = Preference._batch
    monkeypatch.setattr(Preference, "_batch", lambda self, chats: sizes.append(len(chats)) or original(self, chats))
    term = Preference(path=str(folder), **KNOBS | {"batch_size": 8})
    first = term(["q"] * 4, ["a", "b", "a", "a"])
    assert term(["q"] * 2, ["b", "a"]) == [first[1], first[0]]
    assert sizes == [2]


def test_language_model_is_rejected_as_reward_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this is not a reward model") as caught:
        Preference(path="r1:tiny", **KNOBS).check()
    assert (caught.value.key, caught.value.code) == (".path", MODEL)
    assert "LlamaForCausalLM" in str(caught.value)
    AutoModelForCausalLM.from_pretrained(resolve_model_path("r1:tiny")).save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        Preference(path=str(tmp_path), **KNOBS).check()  # no tokenizer
    assert caught.value.key == ".path"


def test_missing_reward_model_fails_before_the_build(config: Callable[..., Any]) -> None:
    cfg = config("+reward/terms@reward.terms.liked=preference", "reward.terms.liked.path=./nowhere")
    with pytest.raises(UserError, match="no such folder") as caught:
        check_config(cfg)
    assert caught.value.key == "reward.terms.liked.path"
