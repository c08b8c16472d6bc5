"""Completions that end where their text first contains a stop text."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from rolloutsupport import at
from transformers import AutoTokenizer, PreTrainedModel

from r1.core.errors import UserError
from r1.core.model_paths import resolve_model_path
from r1.core.seeds import derive_seed
from r1.data.decoding import decode_completion
from r1.rollout.base import Rollout
from r1.rollout.decoding.stop_texts import StopTexts, finished_rollout
from r1.rollout.transformers import Transformers

TOKENIZER = AutoTokenizer.from_pretrained(resolve_model_path("r1:tiny"))
EOS = TOKENIZER.eos_token_id
ENDS = {EOS, 90}


def finished(text: str, *stops: str, closed: bool = True) -> tuple[str, Rollout]:
    ids = TOKENIZER(text).input_ids + [EOS] * closed
    rollout = finished_rollout([5], ids, [-1.0] * len(ids), {EOS}, StopTexts(stops, TOKENIZER))
    shown = rollout.completion_ids, rollout.truncated, rollout.stop_text
    return decode_completion(TOKENIZER, [5], *shown), rollout


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(
    ("stops", "text"),
    [
        ([" is 15"], "3 plus 5 is 8, plus 7"),
        (["plus"], "3 "),
        (["5 i", "plus 7"], "3 plus "),
        (["plus 7", "5 i"], "3 plus "),
        (["s 8, plus 7 is 1"], "3 plus 5 i"),
    ],
)
def test_text_ends_before_the_stop_text_that_starts_first(stops: list[str], text: str, closed: bool) -> None:
    actual, rollout = finished("3 plus 5 is 8, plus 7 is 15. The end", *stops, closed=closed)
    assert actual == text
    assert not rollout.truncated
    shown = TOKENIZER.decode(rollout.completion_ids)
    assert rollout.stop_text in shown
    assert rollout.stop_text not in TOKENIZER.decode(rollout.completion_ids[:-1])
    assert len(rollout.logps) == len(rollout.completion_ids)


def test_text_without_a_stop_text_ends_as_before() -> None:
    text, rollout = finished("3 plus 5", "minus")
    assert (text, rollout.truncated, rollout.completion_ids[-1], rollout.stop_text) == ("3 plus 5", False, EOS, "")
    text, rollout = finished("3 plus 5", "minus", closed=False)
    assert (text, rollout.truncated, rollout.stop_text) == ("3 plus 5", True, "")


def test_stop_text_of_several_bytes_is_found_where_its_last_byte_is() -> None:
    text, rollout = finished("等等 wait 等等", "等等")
    assert (text, rollout.stop_text) == ("", "等等")


def test_special_token_as_a_stop_text_is_a_stop_token() -> None:
    stops = StopTexts(["<|pad|>", "x"], TOKENIZER)
    assert (stops.ids, stops.texts) == ({0}, ["x"])
    ids = [*TOKENIZER("3 plus").input_ids, 0, 7]
    rollout = finished_rollout([5], ids, [0.0] * len(ids), {EOS}, stops)
    assert (rollout.completion_ids, rollout.truncated) == (ids[:-1], False)


def test_stop_text_around_a_special_token_is_refused() -> None:
    with pytest.raises(UserError, match="shows the special token") as caught:
        StopTexts(["<|eos|>\n"], TOKENIZER)
    assert (caught.value.key, caught.value.value) == (".stop", "<|eos|>\n")


@pytest.mark.parametrize(("text", "refused"), [(r"\n\n", True), (r"\nQ:", True), (r"\neq", False), ("\n\n", False)])
def test_typed_backslash_in_place_of_a_line_break_is_refused(text: str, refused: bool) -> None:
    engine = Transformers(**at(1.0, stop=[text]), max_completion_length=4, batch_size=4, async_steps=0)
    with pytest.raises(UserError, match="where a line break is meant") if refused else nullcontext():
        engine.find_stop_texts(TOKENIZER)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_engine_cuts_what_it_samples_without_stop_texts(llama: PreTrainedModel, batch_size: int) -> None:
    prompts, seeds = [[5], [7, 8, 9]], [[derive_seed("stop", p, g) for g in range(12)] for p in range(2)]

    def sampled(stop: list[str]) -> list[Rollout]:
        engine = Transformers(**at(1.0, stop=stop), max_completion_length=24, batch_size=batch_size, async_steps=0)
        engine.update(llama, 0)
        engine.find_stop_texts(TOKENIZER)
        return [rollout for group in engine.generate(prompts, seeds, ENDS) for rollout in group]

    free = sampled([])
    texts = [decode_completion(TOKENIZER, r.prompt_ids, r.completion_ids, r.truncated) for r in free]
    stops = [text[2:4] for text in texts if len(text) > 5][::3]
    assert stops
    by_hand = StopTexts(stops, TOKENIZER)
    expected = [finished_rollout(r.prompt_ids, r.completion_ids, r.logps, ENDS, by_hand) for r in free]
    actual = sampled(stops)
    for a, b in zip(actual, expected, strict=True):
        assert (a.completion_ids, a.truncated, a.stop_text) == (b.completion_ids, b.truncated, b.stop_text)
        assert a.logps == pytest.approx(b.logps, abs=1e-5)
    assert {bool(r.stop_text) for r in actual} == {True, False}
