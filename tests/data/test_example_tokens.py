"""The tokens that SFT learns are those of the whole conversation, for each kind of chat template and of tokenizer."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from templates import DEEPSEEK31, SPECIALS, TEMPLATES, TOKENIZERS, TemplateDay, chat, tokenizer_of
from transformers import AutoTokenizer

from r1.core.errors import UserError
from r1.core.paths import ASSETS
from r1.data.base import Data, Row
from r1.data.template.r1_zero import R1Zero
from r1.data.verifier.exact import exact
from r1.teacher.api.openai_response import read_answer

QUESTION = "What is 3+5=?"
THINKING = "<think>\n3 plus 5 is 8.\n</think>\n\n"
COMPLETIONS = {
    "plain": "The answer is \\boxed{8}.",
    "thinking": THINKING + "The answer is \\boxed{8}.",
    "tiny": "<think> 3 plus 5 is 8.</think>\n<answer>8</answer>",
    "spaces": "\n<think>\n\n3 plus 5</think>8\n",
}
OPENS = ("qwen3_thinking", "deepseek_r1", "opens_thinking", "writes_the_opening")  # their prompts end with <think>\n
DROPS = ("deepseek_r1_old", "deepseek_r1")  # they leave the thinking out of a conversation


@cache
def core(kind: str) -> Any:
    return TOKENIZERS[kind](SPECIALS)


def data_of(template: Any) -> Data:
    return Data(train=[], val=[], template=template, verifier=exact)


def row_of(completion: str) -> Row:
    return {"prompt": QUESTION, "answer": "8", "completion": completion}


def conversation(tokenizer: Any, completion: str, **variables: Any) -> list[int]:
    """The whole conversation, rendered and tokenised by transformers alone, on the day of r1's prompts."""
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": completion}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.utils.chat_template_utils.datetime", TemplateDay)
        return tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False, **variables)  # type: ignore[no-any-return]


# ---- against transformers' own ----


@pytest.mark.parametrize("completion", COMPLETIONS)
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - {*OPENS, *DROPS}))
def test_example_has_the_tokens_of_the_whole_conversation(name: str, kind: str, completion: str) -> None:
    tokenizer = tokenizer_of(core(kind), TEMPLATES[name])
    context, learned, _ = data_of(chat()).example(tokenizer, row_of(COMPLETIONS[completion]))
    whole = conversation(tokenizer, COMPLETIONS[completion])
    ids = context + learned
    if name == "glm4":  # nothing closes its turn but the next one's start, so EOS does
        whole.append(tokenizer.eos_token_id)
    assert ids == whole[: len(ids)]
    behind = tokenizer.decode(whole[len(ids) :]).strip()  # a line break; Phi 3 ends a conversation with EOS
    assert behind == ("</s>" if name == "phi3" else "")
    prompt = data_of(chat()).prompt_ids(tokenizer, row_of(""))
    assert context == prompt[: len(context)]
    assert len(prompt) - len(context) <= 1  # a token may hold the prompt's last characters and the first to learn


# ---- templates that open the thinking, or drop it ----


def texts(data: Data, tokenizer: Any, completion: str) -> tuple[str, str]:
    """The end of the prompt, and the text that is learned after it."""
    context, learned, _ = data.example(tokenizer, row_of(completion))
    prompt = tokenizer.decode(data.prompt_ids(tokenizer, row_of("")))
    together = tokenizer.decode(context + learned)
    assert together.startswith(prompt)
    return prompt[-20:], together[len(prompt) :]


@pytest.mark.parametrize("prefill", ["", "<think>\n", "<think>"])
@pytest.mark.parametrize("name", OPENS)
@pytest.mark.parametrize("completion", ["thinking", "tiny", "spaces"])
def test_example_after_an_opened_thinking_opens_it_once(name: str, prefill: str, completion: str) -> None:
    tokenizer = tokenizer_of(core("byte_level"), TEMPLATES[name])
    prompt, learned = texts(data_of(chat(prefill=prefill)), tokenizer, COMPLETIONS[completion])
    assert prompt.endswith("<think>\n")
    assert learned.startswith("3 plus 5" if name != "qwen3_thinking" or completion != "tiny" else " 3 plus 5")
    assert "<think>" not in learned
    assert learned.count("</think>") == 1


@pytest.mark.parametrize("prefill", ["", "<think>\n"])
@pytest.mark.parametrize("name", OPENS)
def test_example_of_a_teachers_answer_opens_the_thinking_once(name: str, prefill: str) -> None:
    body = b'{"choices": [{"message": {"content": "8", "reasoning_content": "3 plus 5"}, "finish_reason": "stop"}]}'
    tokenizer = tokenizer_of(core("byte_level"), TEMPLATES[name])
    _, learned = texts(data_of(chat(prefill=prefill)), tokenizer, read_answer(body).text)
    assert "".join(learned.split()) == "3plus5</think>8" + ("<|im_end|>" if name == "qwen3_thinking" else "</s>")
    assert learned.startswith("3 plus 5")


def test_example_that_continues_an_opened_thinking_is_as_one_that_opens_it() -> None:
    for name in OPENS:
        tokenizer = tokenizer_of(core("byte_level"), TEMPLATES[name])
        continued, opened = (
            texts(data_of(chat()), tokenizer, text)
            for text in (THINKING.removeprefix("<think>\n") + "8", THINKING + "8")
        )
        assert continued == opened


@pytest.mark.parametrize("completion", ["thinking", "tiny"])
def test_example_keeps_the_thinking_that_a_template_drops(completion: str) -> None:
    tokenizer = tokenizer_of(core("byte_level"), TEMPLATES["deepseek_r1_old"])
    assert texts(data_of(chat()), tokenizer, COMPLETIONS[completion])[1] == COMPLETIONS[completion] + "</s>"


@pytest.mark.parametrize("prefill", ["", "<think>"])
@pytest.mark.parametrize("completion", ["<think>3 plus 5</think>8", "3 plus 5</think>8"])
def test_example_after_a_thinking_that_a_variable_opens_closes_it_once(prefill: str, completion: str) -> None:
    """DeepSeek-V3.1: the conversation has the closing tag alone, as of an answer without thinking."""
    tokenizer = tokenizer_of(core("byte_level"), DEEPSEEK31)
    data = data_of(chat(prefill=prefill, chat_template_kwargs={"thinking": True}))
    prompt, learned = texts(data, tokenizer, completion)
    assert prompt.endswith("<|Assistant|><think>")
    assert learned == "3 plus 5</think>8</s>"


def test_example_after_a_closed_thinking_is_the_answer_alone() -> None:
    tokenizer = tokenizer_of(core("byte_level"), DEEPSEEK31)
    context, learned, _ = data_of(chat()).example(tokenizer, row_of("8"))
    assert context + learned == conversation(tokenizer, "8")
    with pytest.raises(UserError, match="in another way than the prompt opens it"):
        data_of(chat()).example(tokenizer, row_of("<think>3 plus 5</think>8"))


@pytest.mark.parametrize("prefill", ["<think>\n", "<think>"])
@pytest.mark.parametrize("name", ["qwen2.5", "llama3", "gemma", "smollm3", "zephyr", "qwen3"])
def test_example_with_a_prefill_opens_the_thinking_once(name: str, prefill: str) -> None:
    for completion in ("thinking", "tiny"):
        tokenizer = tokenizer_of(core("byte_level"), TEMPLATES[name])
        prompt, learned = texts(data_of(chat(prefill=prefill)), tokenizer, COMPLETIONS[completion])
        assert prompt.endswith(prefill)
        assert "<think>" not in learned
        assert "<think>\n\n" not in prompt + learned


@pytest.mark.parametrize("name", ["deepseek_r1", "qwen3_thinking", "zephyr", "deepseek_r1_old"])
def test_example_with_a_prefill_of_words_starts_behind_them(name: str) -> None:
    tokenizer, data = tokenizer_of(core("byte_level"), TEMPLATES[name]), data_of(chat(prefill="<think>\nOkay, so"))
    prompt, learned = texts(data, tokenizer, "<think>\nOkay, so 3 plus 5</think>8")
    assert prompt.endswith("<think>\nOkay, so")
    assert prompt.count("<think>") == 1
    assert "".join(learned.split()).startswith("3plus5</think>8<")
    with pytest.raises(UserError, match="in another way than the prompt opens it"):
        texts(data, tokenizer, "<think>\n3 plus 5</think>8")


# ---- refused: the conversation does not continue the prompt ----


@pytest.mark.parametrize(
    ("name", "knobs", "completion"),
    [
        ("qwen3", {"chat_template_kwargs": {"enable_thinking": False}}, "thinking"),
        ("qwen3", {"chat_template_kwargs": {"enable_thinking": False}, "prefill": "<think>\n"}, "thinking"),
        ("gpt_oss", {"prefill": "<think>\n"}, "thinking"),  # the channel stands between
        ("glm4", {"prefill": "<think>\n"}, "thinking"),  # its line break does
    ],
)
def test_example_that_does_not_continue_the_prompt_is_refused(name: str, knobs: Any, completion: str) -> None:
    tokenizer = tokenizer_of(core("byte_level"), TEMPLATES[name])
    with pytest.raises(UserError, match="in another way than the prompt opens it") as caught:
        data_of(chat(**knobs)).example(tokenizer, row_of(COMPLETIONS[completion]))
    assert caught.value.key == "data.template.chat_template"


def test_example_that_a_template_rewrites_is_refused() -> None:
    shouts = TEMPLATES["zephyr"].replace("+ m.content", "+ (m.content | upper if m.role == 'assistant' else m.content)")
    tokenizer = tokenizer_of(core("byte_level"), shouts)
    with pytest.raises(UserError, match="in another way"):
        data_of(chat()).example(tokenizer, row_of("eight"))


# ---- plain templates ----


@pytest.mark.parametrize(("text", "prefill"), [("User: {prompt}\nAssistant:", ""), ("{prompt} Assistant: ", "<think>")])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_example_of_r1_zero_has_the_tokens_of_the_whole_text(kind: str, text: str, prefill: str) -> None:
    tokenizer = tokenizer_of(core(kind), "")
    template = R1Zero(text=text, prefill=prefill)
    context, learned, _ = data_of(template).example(tokenizer, row_of(COMPLETIONS["tiny"]))
    whole = text.replace("{prompt}", QUESTION) + COMPLETIONS["tiny"] + "</s>"
    assert context + learned == tokenizer(whole, add_special_tokens=False).input_ids


def test_example_learns_a_token_that_holds_the_end_of_the_prompt() -> None:
    """``" 8"`` is one token of the tiny world: after ``Assistant: `` it holds the prompt's last space."""
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny")
    context, learned, _ = data_of(R1Zero(text="{prompt} Assistant: ", prefill="")).example(tokenizer, row_of("8"))
    assert tokenizer.decode(context) == QUESTION + " Assistant:"
    assert tokenizer.convert_ids_to_tokens(learned) == ["Ġ8", "<|eos|>"]


def test_example_of_an_empty_prompt_has_a_first_token_to_follow() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny")
    context, learned, _ = data_of(R1Zero(text="{prompt}", prefill="")).example(tokenizer, row_of("x") | {"prompt": "3"})
    assert len(context) == 1
    assert tokenizer.decode(context + learned) == "3x<|eos|>"


# ---- any text ----


@settings(max_examples=60)
@given(st.sampled_from(sorted(TEMPLATES)), st.sampled_from(sorted(TOKENIZERS)), st.text(max_size=30))
def test_example_of_any_completion_has_the_tokens_of_one_text(name: str, kind: str, completion: str) -> None:
    tokenizer = tokenizer_of(core(kind), TEMPLATES[name])
    template, row = chat(), row_of(f"<think>a{completion}</think>8")
    context, learned, _ = data_of(template).example(tokenizer, row)
    text = template.render(tokenizer, QUESTION) + template.complete(tokenizer, QUESTION, row["completion"])
    assert context + learned == tokenizer(text, add_special_tokens=False).input_ids
    assert learned[-1] == tokenizer.convert_tokens_to_ids(template.end(tokenizer))
