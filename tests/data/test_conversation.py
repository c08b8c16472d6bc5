"""Conversations in a row: one form for every layout, and the tokens of each turn."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from templates import SPECIALS, TEMPLATES, TOKENIZERS, TemplateDay, chat, tokenizer_of

from r1.core.errors import UserError
from r1.data.base import Data, Row
from r1.data.columns import check_row
from r1.data.conversation import conversation_error, question_text, with_conversations, with_instruction
from r1.data.template.r1_zero import R1Zero
from r1.data.verifier.exact import exact

TRL_TEMPLATES = Path(next(iter(find_spec("trl").submodule_search_locations))) / "chat_templates"  # type: ignore
UNSTABLE = ("deepseek_r1", "opens_thinking")
TALK = [
    {"role": "user", "content": "What is 3+5?"},
    {"role": "assistant", "content": "It is 8."},
    {"role": "user", "content": "And 8+1?"},
    {"role": "assistant", "content": "It is 9."},
]
SYSTEM = {"role": "system", "content": "Be short."}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALLS = [
    {"role": "user", "content": "What is 3+5?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 3, "b": 5}}}],
    },
    {"role": "tool", "name": "add", "content": "8"},
    {"role": "assistant", "content": "It is 8."},
]


@cache
def core(kind: str) -> Any:
    return TOKENIZERS[kind](SPECIALS)


def data_of(template: Any, **knobs: Any) -> Data:
    return Data(train=[], val=[], template=template, verifier=exact, **knobs)


# ---- one form ----


def test_messages_have_the_prompt_before_their_last_answer() -> None:
    row = with_conversations({"messages": [SYSTEM, *TALK]})
    assert row == {"messages": [SYSTEM, *TALK], "prompt": TALK[:3], "system": "Be short."}


def test_sharegpt_conversations_become_messages() -> None:
    turns = [
        {"from": "system", "value": "Be short."},
        {"from": "human", "value": "What is 3+5?", "weight": None},
        {"from": "gpt", "value": "It is 8."},
    ]
    row = with_conversations({"id": 7, "conversations": turns})
    assert row == {"id": 7, "messages": [SYSTEM, *TALK[:2]], "prompt": "What is 3+5?", "system": "Be short."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q"},
        {"prompt": [{"role": "user", "content": "Q"}]},
        {"prompt": [{"content": "Q", "role": "user", "name": None}]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}]},
        {"prompt": [{"from": "human", "value": "Q"}]},
        {"prompt": [SYSTEM, {"role": "user", "content": "Q"}]},
        {"prompt": [{"role": "user", "content": "Q"}], "system": "Be short."},
    ],
)
def test_question_has_one_text_however_it_is_written(row: Row) -> None:
    found = with_conversations(row)
    assert found["prompt"] == question_text(found["prompt"]) == "Q"
    assert with_conversations(found) == found


def test_question_of_several_turns_is_headed_by_roles() -> None:
    assert question_text(TALK[:3]) == "user: What is 3+5?\n\nassistant: It is 8.\n\nuser: And 8+1?"
    assert "add" in question_text(CALLS[:3])


@pytest.mark.parametrize("prompt", [{}, {"prompt": "What is 3+5?"}, {"prompt": TALK[:1]}])
def test_pairs_of_conversations_become_pairs_of_answers(prompt: Row) -> None:
    """UltraFeedback has the question in both, TRL in neither."""
    other = {"role": "assistant", "content": "9"}
    expected = {"prompt": "What is 3+5?", "chosen": "It is 8.", "rejected": "9"}
    assert with_conversations(prompt | {"chosen": TALK[:2], "rejected": [TALK[0], other]}) == expected
    if prompt:
        assert with_conversations(prompt | {"chosen": [TALK[1]], "rejected": [other]}) == expected


def test_pair_of_longer_conversations_has_their_common_start_as_prompt() -> None:
    row = with_conversations({"chosen": [SYSTEM, *TALK], "rejected": [SYSTEM, *TALK[:3], TALK[1]]})
    assert row == {"prompt": TALK[:3], "chosen": "It is 9.", "rejected": "It is 8.", "system": "Be short."}


def test_dialogues_of_hh_rlhf_become_pairs_with_their_common_start_as_prompt() -> None:
    start = "\n\nHuman: What is 3+5?\n\nAssistant: It is 8.\n\nHuman: And 8+1?\n\nAssistant:"
    row = with_conversations({"chosen": f"{start} It is 9.\n\nTruly: 9.", "rejected": f"{start} No."})
    assert row == {"prompt": TALK[:3], "chosen": "It is 9.\n\nTruly: 9.", "rejected": "No."}


def test_dialogue_of_hh_rlhf_is_a_conversation_to_learn() -> None:
    row = with_conversations({"messages": "\n\nHuman: What is 3+5?\n\nAssistant: It is 8."})
    assert row == {"messages": TALK[:2], "prompt": "What is 3+5?"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        {"chosen": "Human nature is good.", "rejected": "Human: none"},
        {"chosen": "It is 9.\n\nHuman: thanks", "rejected": "No."},
    ],
)
def test_text_that_is_no_pair_of_dialogues_is_the_answer_itself(row: Row) -> None:
    assert with_conversations(row) is row


def test_weight_of_an_answer_is_kept_where_it_is_not_one() -> None:
    weights = [None, 0, 1.0, 1, 1, 0.0]
    messages = [message | {"weight": weight} for message, weight in zip([*TALK, *TALK[:2]], weights, strict=True)]
    row = with_conversations({"messages": messages})
    assert row["messages"] == [TALK[0], TALK[1] | {"weight": 0}, *TALK[2:], TALK[0], TALK[1] | {"weight": 0.0}]
    assert row["prompt"] == TALK[:3]


def test_answer_of_one_message_is_its_text() -> None:
    """TRL's conversational prompt-completion rows."""
    row = with_conversations({"prompt": TALK[:1], "completion": TALK[1:2]})
    assert row == {"prompt": "What is 3+5?", "completion": "It is 8."}


def test_nulls_that_arrow_adds_are_left_out_at_any_depth() -> None:
    nulls = {"tool_calls": None, "name": None}
    call = CALLS[1] | {"name": None, "tool_calls": [{"type": "function", "id": None, "function": {"name": "add"}}]}
    row = with_conversations({"messages": [TALK[0] | nulls, call, CALLS[2] | {"tool_calls": None}, TALK[1] | nulls]})
    assert row["messages"][0] == TALK[0]
    assert row["messages"][1]["tool_calls"] == [{"type": "function", "function": {"name": "add"}}]


def test_keys_that_no_template_reads_are_left_out() -> None:
    """WildChat and others have the time, the country and ratings in every message."""
    noise = {"timestamp": "2023-04-09", "toxic": False, "weight": 1, "tool_calls": []}
    assert with_conversations({"conversations": [message | noise for message in TALK]})["messages"] == TALK
    thought = TALK[1] | {"reasoning_content": "3+5=8"}
    assert with_conversations({"messages": [TALK[0], thought | noise]})["messages"][1] == thought


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS), [json.dumps(TOOLS[0])]])
def test_tools_are_read_as_objects_or_as_json(tools: Any) -> None:
    assert with_conversations({"messages": CALLS, "tools": tools})["tools"] == TOOLS


def test_row_without_conversations_is_the_same_object() -> None:
    row = {"prompt": "Q", "answer": "8", "scores": [{"a": 1}], "completion": None}
    assert with_conversations(row) is row


@pytest.mark.parametrize(
    ("column", "messages", "reason"),
    [
        ("prompt", TALK[:2], "a prompt ends before the assistant's turn, and this one with the role assistant"),
        ("prompt", [SYSTEM], "with the role system"),
        ("prompt", [], "an empty list"),
        ("prompt", ["Q"], "not of messages"),
        ("prompt", [{"role": "prompter", "content": "Q"}], "message 1 has the role 'prompter'"),
        ("prompt", [{"role": "user", "content": None}], "the content of message 1 is no text"),
        ("prompt", [{"role": "user", "content": [{"type": "image"}]}], "the content of message 1 is no text"),
        ("messages", TALK[:1], "the assistant answers nothing"),
        ("messages", TALK[1:2], "the assistant answers nothing"),
        ("chosen", TALK[:1], "the last message is the user's"),
        ("chosen", TALK[:2], "no common start"),
    ],
)
def test_conversation_that_is_none_has_a_reason(column: str, messages: Any, reason: str) -> None:
    assert reason in conversation_error(messages, column)
    row = {"prompt": "Q"} | {column: messages}
    with pytest.raises(UserError) as caught:
        check_row(row, "rows.jsonl:3", ".path")
    assert caught.value.message.startswith(f"rows.jsonl:3: the column `{column}` holds no")
    assert reason in caught.value.hint


@example([{"from": []}])
@settings(deadline=None)
@given(st.recursive(st.none() | st.text(max_size=3) | st.integers(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["role", "content", "from", "value", "tool_calls", "user", "text", "type"]), x)))  # fmt: skip
def test_any_value_in_a_column_of_conversations_is_read_or_refused(value: Any) -> None:
    for column in ("prompt", "messages", "chosen", "completion", "tools", "system"):
        row = with_conversations({"prompt": "Q", "rejected": value} | {column: value})
        try:
            check_row(row, "row 1", ".path")
        except UserError:
            continue
        assert question_text(row["prompt"])


# ---- the instruction ----


def test_instruction_ends_the_last_user_message() -> None:
    assert with_instruction("Q", "Box it.") == "Q\nBox it."
    assert with_instruction(TALK[:3], "Box it.") == [*TALK[:2], {"role": "user", "content": "And 8+1?\nBox it."}]
    assert with_instruction("Q", None) == "Q"


# ---- the text of a prompt ----


def test_system_message_of_a_row_replaces_the_templates() -> None:
    tokenizer = tokenizer_of(core("byte_level"), TEMPLATES["zephyr"])
    data = data_of(chat(system="Think first."))
    assert data.prompt_text(tokenizer, {"prompt": "Q"}).startswith("<|system|>\nThink first.</s>\n<|user|>\nQ")
    row = with_conversations({"prompt": [SYSTEM, {"role": "user", "content": "Q"}]})
    assert data.prompt_text(tokenizer, row).startswith("<|system|>\nBe short.</s>\n<|user|>\nQ")
    assert "Think" not in data.prompt_text(tokenizer, row)


def test_conversation_in_a_template_of_one_question_is_refused() -> None:
    tokenizer, data = (
        tokenizer_of(core("byte_level"), ""),
        data_of(R1Zero(text="User: {prompt} Assistant:", prefill="")),
    )
    for row in ({"prompt": TALK[:3]}, {"prompt": "Q", "system": "Be short."}, {"prompt": "Q", "tools": TOOLS}):
        with pytest.raises(UserError, match="renders one question") as caught:
            data.prompt_text(tokenizer, row)
        assert caught.value.key == "data.template.text"


# ---- the tokens that are learned ----


def masked(data: Data, tokenizer: Any, row: Row, mask_history: bool = False) -> tuple[list[int], list[int]]:
    """(ids, 1 where a token is learned) of a row's example."""
    context, targets, is_learned = data.example(tokenizer, with_conversations(row), mask_history)
    return context + targets, [0] * len(context) + [int(one) for one in is_learned]


def of_transformers(tokenizer: Any, messages: list[Any], **variables: Any) -> tuple[list[int], list[int]]:
    """TRL's example: ``SFTTrainer`` with ``assistant_only_loss`` calls this, and nothing else, on a row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.utils.chat_template_utils.datetime", TemplateDay)
        made = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **variables
        )
    return made["input_ids"], made["assistant_masks"]


def training_templates() -> dict[str, str]:
    """TRL's chat templates with generation marks, those of text models."""
    files = [file for file in TRL_TEMPLATES.glob("*_training.jinja") if "vl" not in file.stem]
    return {file.stem.removesuffix("_training"): file.read_text() for file in sorted(files)}


CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": TALK[:2]},
    "two turns": {"messages": TALK},
    "system": {"messages": [SYSTEM, *TALK]},
    "thinking": {"messages": [*TALK[:3], {"role": "assistant", "content": "<think>\n8+1=9\n</think>\n\nIt is 9."}]},
    "tools": {"messages": CALLS, "tools": TOOLS},
    "calls twice": {"messages": [*CALLS[:3], *CALLS[1:]], "tools": TOOLS},
}


STABLE = [
    "cohere",
    "cohere2",
    "gemma",
    "gemma3",
    "lfm2_v2",
    "llama3",
    "phi3",
    "phi3_5",
    "qwen2_5",
    "qwen3_instruct_2507",
]


@pytest.mark.parametrize("talk", CONVERSATIONS)
@pytest.mark.parametrize("name", training_templates())
def test_marked_templates_give_the_tokens_and_masks_of_trl(name: str, talk: str) -> None:
    tokenizer = tokenizer_of(core("byte_level"), training_templates()[name])
    row = CONVERSATIONS[talk]
    try:
        expected = of_transformers(tokenizer, row["messages"], tools=row.get("tools"))
    except Exception:  # the template raises, or formats what is not there
        with pytest.raises(UserError):
            masked(data_of(chat()), tokenizer, row)
        return
    assert masked(data_of(chat()), tokenizer, row) == expected


@pytest.mark.parametrize("talk", CONVERSATIONS)
@pytest.mark.parametrize("name", STABLE)
def test_plain_templates_learn_the_text_that_trl_marks(name: str, talk: str) -> None:
    """The models' own templates, without marks: TRL's for training have the same text, and mark space around turns."""
    marked, row = training_templates()[name], CONVERSATIONS[talk]
    plain = (TRL_TEMPLATES / f"{name}.jinja").read_text()
    tokenizer = tokenizer_of(core("byte_level"), plain)
    try:
        ids, masks = of_transformers(tokenizer, row["messages"], tools=row.get("tools"), chat_template=marked)
    except Exception:
        pytest.skip("the template has no such messages")
    learned = tokenizer.decode([i for i, mask in zip(ids, masks, strict=True) if mask])
    found_ids, found_masks = masked(data_of(chat()), tokenizer, row)
    found = tokenizer.decode([i for i, mask in zip(found_ids, found_masks, strict=True) if mask])
    assert "".join(found.split()) == "".join(learned.removesuffix("</s>" if "phi3" in name else "").split())
    assert found_ids == ids[: len(found_ids)]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in UNSTABLE])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_each_turn_has_the_tokens_of_its_own_example(name: str, kind: str) -> None:
    """The mask of all turns is the union of those of the conversation cut after each."""
    tokenizer, data = tokenizer_of(core(kind), TEMPLATES[name]), data_of(chat())
    ids, mask = masked(data, tokenizer, {"messages": TALK})
    last_ids, last_mask = masked(data, tokenizer, {"messages": TALK}, mask_history=True)
    first_ids, first_mask = masked(data, tokenizer, {"messages": TALK[:2]})
    pair_ids, pair_mask = masked(data, tokenizer, {"prompt": TALK[:3], "completion": "It is 9."})
    assert ids == last_ids == pair_ids
    assert last_mask == pair_mask
    start = len(first_ids)  # GLM 4, Phi 4 and gpt-oss close the last turn with another token than the one before
    assert mask[: start - 1] == first_mask[: start - 1]
    assert mask[start:] == last_mask[start:]


@pytest.mark.parametrize("name", [*UNSTABLE, "qwen3.jinja", "qwen3_5_think.jinja"])
def test_template_that_rewrites_earlier_turns_learns_the_last_alone(name: str) -> None:
    template = TEMPLATES.get(name) or (TRL_TEMPLATES / name).read_text()
    tokenizer, data = tokenizer_of(core("byte_level"), template), data_of(chat())
    with pytest.raises(UserError, match="writes message 2 of a conversation in another way") as caught:
        masked(data, tokenizer, {"messages": TALK})
    assert caught.value.key == "data.template.chat_template"
    assert "stage.mask_history=true" in caught.value.hint
    ids, mask = masked(data, tokenizer, {"messages": TALK}, mask_history=True)
    assert "9" in tokenizer.decode([i for i, one in zip(ids, mask, strict=True) if one])
    assert "8." not in tokenizer.decode([i for i, one in zip(ids, mask, strict=True) if one])


LONG = [*TALK, {"role": "user", "content": "And 9+1?"}, {"role": "assistant", "content": "It is 10."}]


@pytest.mark.parametrize("template", [TEMPLATES["qwen2.5"], training_templates()["llama3"]], ids=["plain", "marked"])
@pytest.mark.parametrize(
    ("unlearned", "mask_history", "learned"),
    [([1], False, "9 10"), ([3], False, "8 10"), ([5], False, "8 9"), ([5], True, "9"), ([3], True, "10")],
)
def test_answers_of_weight_0_are_masked(template: str, unlearned: list[int], mask_history: bool, learned: str) -> None:
    tokenizer, data = tokenizer_of(core("byte_level"), template), data_of(chat())
    row = {"messages": [m | {"weight": 0} if i in unlearned else m for i, m in enumerate(LONG)]}
    ids, mask = masked(data, tokenizer, row, mask_history)
    text = tokenizer.decode([i for i, one in zip(ids, mask, strict=True) if one])
    assert re.findall(r"It is (\d+)\.", text) == learned.split()
    masked_text, _ = masked(data, tokenizer, {"messages": LONG})
    assert ids == masked_text[: len(ids)]


THINKS = (
    "{% if enable_thinking %}THINK {% endif %}{% for m in messages %}{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_that_the_template_leaves_out_is_refused(key: str) -> None:
    data, row = data_of(chat()), {"messages": [TALK[0], TALK[1] | {key: "3+5=8"}]}
    with pytest.raises(UserError, match=f"leaves out the `{key}` of an answer") as caught:
        masked(data, tokenizer_of(core("byte_level"), TEMPLATES["qwen2.5"]), row)
    assert caught.value.key == "data.template.chat_template"
    written = "{% for m in messages %}{{ m.role }}:{% if m.KEY %}{{ m.KEY }}{% endif %}{{ m.content }}{% endfor %}"
    written = written.replace("KEY", key) + "{% if add_generation_prompt %}assistant:{% endif %}"
    tokenizer = tokenizer_of(core("byte_level"), written)
    ids, mask = masked(data, tokenizer, row)
    assert "3+5=8It is 8." in tokenizer.decode([i for i, one in zip(ids, mask, strict=True) if one])


def test_chat_template_kwargs_of_a_row_go_before_the_config() -> None:
    tokenizer, data = (
        tokenizer_of(core("byte_level"), THINKS),
        data_of(chat(chat_template_kwargs={"enable_thinking": True})),
    )
    texts = [
        data.prompt_text(tokenizer, {"prompt": "Q", "chat_template_kwargs": own})
        for own in (None, {}, {"enable_thinking": False}, {"enable_thinking": True})
    ]
    assert ["THINK" in text for text in texts] == [True, True, False, True]
    learned = data.learned(tokenizer, {"messages": TALK, "chat_template_kwargs": {"enable_thinking": False}})
    assert "THINK" not in learned.text


@pytest.mark.parametrize(
    ("template", "own", "message"),
    [
        (chat(), {"enable_thinkin": True}, "does not read the variable `enable_thinkin`"),
        (chat(), {"tools": []}, "no config sets the template's `tools`"),
        (R1Zero(text="{prompt}", prefill=""), {"enable_thinking": True}, "this template has no variables"),
    ],
)
def test_chat_template_kwargs_that_do_nothing_are_refused(template: Any, own: Row, message: str) -> None:
    tokenizer = tokenizer_of(core("byte_level"), THINKS)
    with pytest.raises(UserError, match=message) as caught:
        data_of(template).prompt_text(tokenizer, {"prompt": "Q", "chat_template_kwargs": own})
    assert caught.value.key == "data.columns.chat_template_kwargs"


def test_marked_template_learns_the_last_turn_alone() -> None:
    tokenizer, data = tokenizer_of(core("byte_level"), training_templates()["llama3"]), data_of(chat())
    ids, mask = masked(data, tokenizer, {"messages": TALK}, mask_history=True)
    assert tokenizer.decode([i for i, one in zip(ids, mask, strict=True) if one]).startswith("It is 9.")


@pytest.mark.parametrize(("name", "closed"), [("gptoss", "It is 8.<|end|>"), ("glm4moe", "It is 8.<|user|>")])
def test_earlier_turn_learns_the_special_token_that_follows_it(name: str, closed: str) -> None:
    tokenizer = tokenizer_of(core("byte_level"), (TRL_TEMPLATES / f"{name}.jinja").read_text())
    ids, mask = masked(data_of(chat()), tokenizer, {"messages": TALK})
    assert closed in tokenizer.decode([i for i, one in zip(ids, mask, strict=True) if one])
