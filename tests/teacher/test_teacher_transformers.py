"""The transformers teacher on a tiny random model: seeded answers, its chat template, token counts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from replies import ask_all
from rolloutsupport import at
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from r1.core.errors import MODEL, UserError
from r1.data.base import Row
from r1.teacher.transformers import Transformers

CHAT = (
    "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROWS: list[Row] = [{"prompt": "3+5=?"}, {"prompt": "What is three plus five plus eight?"}]


def save_model(folder: Path, template: str | None) -> str:
    """A byte-level Qwen2 with random weights, small enough to make in milliseconds."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|pad|>", "<|eos|>", "<|user|>", "<|assistant|>"]
    bpe = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(names + alphabet)}, merges=[]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=names[0], eos_token=names[1], additional_special_tokens=names[2:]
    )
    tokenizer.chat_template = template
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The model is so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("chat"), CHAT)


def teacher(
    path: str,
    *,
    temperature: float = 1.0,
    max_completion_length: int = 12,
    batch_size: int = 8,
    system: str | None = None,
    sampling: dict[str, Any] | None = None,
    **variables: Any,
) -> Transformers:
    return Transformers(
        path=path,
        dtype="float32",
        system=system,
        **at(temperature, **sampling or {}),
        max_completion_length=max_completion_length,
        chat_template_kwargs=variables or None,
        batch_size=batch_size,
    )


def test_answers_depend_on_question_and_seed_but_not_on_the_batch(chat_model: str) -> None:
    both = ask_all(teacher(chat_model), ROWS, 3, seed=5)
    assert [len(group) for group in both] == [3, 3]
    assert both == ask_all(teacher(chat_model, batch_size=1), ROWS, 3, seed=5)
    assert both[::-1] == ask_all(teacher(chat_model), ROWS[::-1], 3, seed=5)
    assert both[1][:1] == ask_all(teacher(chat_model), ROWS[1:], 1, seed=5)[0]
    assert len({answer.text for group in both for answer in group}) == 6
    assert both != ask_all(teacher(chat_model), ROWS, 3, seed=6)


def test_global_random_state_does_not_change(chat_model: str) -> None:
    chat_teacher = teacher(chat_model)
    ask_all(chat_teacher, ROWS[:1], 1, seed=0)
    before = torch.get_rng_state(), random.getstate()
    ask_all(chat_teacher, ROWS, 2, seed=0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_temperature_zero_gives_one_answer(chat_model: str) -> None:
    (group,) = ask_all(teacher(chat_model, temperature=0.0), ROWS[:1], 3, seed=0)
    assert len(set(group)) == 1
    assert [group] == ask_all(teacher(chat_model, temperature=0.0), ROWS[:1], 3, seed=9)


def test_generation_config_of_the_model_has_no_say(chat_model: str, tmp_path: Path) -> None:
    path = save_model(tmp_path, CHAT)
    defaults = {"do_sample": True, "temperature": 0.1, "top_p": 0.1, "top_k": 1, "repetition_penalty": 2.0}
    (tmp_path / "generation_config.json").write_text(json.dumps(defaults))
    plain = ask_all(teacher(chat_model), ROWS, 3, seed=5)
    assert plain == ask_all(teacher(path), ROWS, 3, seed=5)
    assert plain != ask_all(teacher(path, sampling={"top_k": 2}), ROWS, 3, seed=5)
    likeliest = ask_all(teacher(path, sampling={"top_p": 1e-6}), ROWS[:1], 3, seed=5)
    assert likeliest == ask_all(teacher(path, temperature=0.0), ROWS[:1], 3, seed=5)


def test_answer_ends_before_a_stop_text(chat_model: str) -> None:
    (free,) = ask_all(teacher(chat_model), ROWS[:1], 1, seed=5)
    (answers,) = ask_all(teacher(chat_model, sampling={"stop": [free[0].text[3]]}), ROWS[:1], 1, seed=5)
    assert answers[0].text == free[0].text.partition(free[0].text[3])[0]
    assert answers[0].finish_reason == "stop"
    assert answers[0].completion_tokens <= 4


def test_system_message_is_in_the_prompt_and_in_the_identity(tmp_path: Path) -> None:
    path = save_model(tmp_path, CHAT)
    brief = teacher(path, system="Be brief.")
    (answers,) = ask_all(brief, ROWS[:1], 1, seed=0)
    assert answers[0].prompt_tokens > 7 + len("Be brief.")
    assert brief.identity(ROWS[0])["system"] == "Be brief."
    keys = {"teacher", "model", "dtype", "temperature", "max_tokens", "question"}  # as before there were more knobs
    assert teacher(path).identity(ROWS[0]).keys() == keys
    assert teacher(path, sampling={"min_p": 0.1}).identity(ROWS[0]).keys() == keys | {"min_p"}


def test_template_that_drops_the_system_message_is_refused(tmp_path: Path) -> None:
    path = save_model(
        tmp_path, "{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}" + CHAT
    )
    with pytest.raises(UserError, match="does not show a system message") as caught:
        ask_all(teacher(path, system="Be brief."), ROWS[:1], 1, seed=0)
    assert caught.value.key == "teacher.system"


def test_token_counts_and_finish_reasons(tmp_path: Path) -> None:
    path = save_model(tmp_path, CHAT)
    stop_ids = [1, *range(100, 160)]  # a quarter of the vocabulary, so some answers stop and some are truncated
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stop_ids}))
    (answers,) = ask_all(teacher(path, max_completion_length=4), ROWS[:1], 16, seed=1)
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}
    assert {answer.completion_tokens for answer in answers if answer.finish_reason == "length"} == {4}
    assert min(answer.completion_tokens for answer in answers) == 1
    assert {answer.prompt_tokens for answer in answers} == {7}  # <|user|>, five characters, <|assistant|>


def test_special_tokens_are_not_in_the_text(tmp_path: Path) -> None:
    path = save_model(tmp_path, CHAT)
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all logits equal: greedy writes token 0, <|pad|>, to the end
    model.save_pretrained(path)
    (answers,) = ask_all(teacher(path, temperature=0.0), ROWS[:1], 1, seed=0)
    assert (answers[0].text, answers[0].completion_tokens) == ("", 12)


def test_variables_of_the_chat_template_are_part_of_the_prompt_and_of_the_identity(tmp_path: Path) -> None:
    path = save_model(tmp_path, "{{ strftime_now('%d') }}{{ effort | default('low') }}" + CHAT)
    plain, high = teacher(path), teacher(path, effort="high", strftime_now="2025-06-01")
    counts = [ask_all(one, ROWS[:1], 1, seed=0)[0][0].prompt_tokens for one in (plain, high)]
    assert counts == [7 + len("26low"), 7 + len("01high")]
    assert "chat_template_kwargs" not in plain.identity(ROWS[0])
    assert high.identity(ROWS[0]) != teacher(path, effort="high").identity(ROWS[0]) != plain.identity(ROWS[0])


def test_variable_that_the_teachers_chat_template_does_not_read_is_refused(chat_model: str) -> None:
    with pytest.raises(UserError, match="does not read the variable `effort`") as caught:
        ask_all(teacher(chat_model, effort="high"), ROWS, 1, seed=0)
    assert caught.value.key == "teacher.chat_template_kwargs.effort"


def test_rendered_prompt_is_used_unchanged(chat_model: str) -> None:
    (answers,) = ask_all(teacher(chat_model), [{"prompt": "3+5=?", "rendered": "Q: 3+5 <think>\n"}], 2, seed=0)
    assert [answer.prompt_tokens for answer in answers] == [15, 15]
    assert all(answer.text.startswith("<think>\n") for answer in answers)


def test_model_without_chat_template_answers_rendered_rows_only(tmp_path: Path) -> None:
    path = save_model(tmp_path, None)
    assert len(ask_all(teacher(path), [{"prompt": "3+5=?", "rendered": "Q: 3+5"}], 1, seed=0)[0]) == 1
    with pytest.raises(UserError, match="chat template") as caught:
        ask_all(teacher(path), ROWS, 1, seed=0)
    assert caught.value.code == MODEL


def test_no_questions_load_no_model(tmp_path: Path) -> None:
    missing = teacher(str(tmp_path / "missing"))
    assert ask_all(missing, [], 3, seed=0) == []
    assert ask_all(missing, ROWS, 0, seed=0) == [[], []]


def test_missing_model_is_reported_at_teacher_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        ask_all(teacher(str(tmp_path / "missing")), ROWS, 1, seed=0)
    assert (caught.value.key, caught.value.code) == ("teacher.path", MODEL)
