"""Conversations in a row: lists of messages in the layouts of TRL, verl and ShareGPT, brought into one form.

A message is ``{"role": ..., "content": text}``, with ``tool_calls`` and further keys as the chat template reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1.data.base import Row

Message = dict[str, Any]
Prompt = str | list[Message]
"""A question: the text of one user message, or the messages before the assistant's turn."""
Tools = list[dict[str, Any]] | None
"""JSON schemas of the functions that the assistant may call, for the chat template."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "observation")
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}
READ_KEYS = ("name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")  # by chat templates
DIALOGUE = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
CONVERSATIONS = ("prompt", "completion", "messages", "chosen", "rejected")  # columns that may hold messages


def with_conversations(row: Row) -> Row:
    """The row with its conversations in one form; a row without any is returned as it is.

    - ``conversations`` is ``messages``; ShareGPT's ``from`` and ``value`` are ``role`` and ``content``; keys that are
      null (Arrow adds them) are left out; a content of several texts is one text. Of ``messages`` OpenAI's ``weight``
      is kept where it is not 1.
    - ``messages`` without ``prompt``: the prompt is all before the last turn to learn. ``chosen`` and ``rejected`` that
      hold the conversation, as messages or as Anthropic's text: their common start is the prompt.
    - The system message is the column ``system``, and a prompt that is then one user message is its text. So a question
      has one form, and one hash, however it is written.

    Values that are no conversation are left for ``check_row``.
    """
    row = _with_dialogues(row)
    columns = {"conversations": "messages"} if "messages" not in row and is_messages(row.get("conversations")) else {}
    names = {columns.get(name, name) for name in row if is_messages(row[name])} & {*CONVERSATIONS}
    if not names and not isinstance(row.get("tools"), (str, list)) and not row.get("chat_template_kwargs"):
        return row
    row = {columns.get(name, name): value for name, value in row.items()}
    row |= {name: [in_one_form(message, name == "messages") for message in row[name]] for name in names}
    row |= {name: single_answer(row[name]) for name in names & {"completion"}}
    row = _without_prompt(row) if {"chosen", "rejected"} <= names else row
    if "messages" in names:
        row = _with_prompt(row)
    if row.get("tools") is not None:
        row["tools"] = read_tools(row["tools"])
    if row.get("chat_template_kwargs") is not None:
        row["chat_template_kwargs"] = without_nulls(row["chat_template_kwargs"]) or None
    return _with_system(row)


def is_messages(value: Any) -> bool:
    """Whether it is a list of objects, of messages or of something else."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def in_one_form(message: Mapping[str, Any], is_learned: bool = False) -> Message:
    """``role``, ``content`` and the other keys that chat templates read, without null and empty values.

    Args:
        is_learned: a `weight` of an assistant that is not 1 is kept: 0 masks the turn, as in OpenAI's format.
    """
    fields = without_nulls(message)
    if "from" in fields and "role" not in fields:
        role = fields.pop("from")  # of any type: ``check_row`` refuses what is no text
        fields = {
            "role": SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role,
            "content": fields.pop("value", None),
            **fields,
        }
    content = fields.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if content is None and fields.get("tool_calls"):
        content = ""  # templates concatenate it
    form = {"role": fields.get("role"), "content": content} | {key: fields[key] for key in READ_KEYS if fields.get(key)}
    is_usual = not is_learned or form["role"] != "assistant" or fields.get("weight", 1) == 1
    return form if is_usual else form | {"weight": fields["weight"]}


def without_weights(messages: list[Message]) -> list[Message]:
    """The messages as chat templates get them."""
    return [{key: value for key, value in message.items() if key != "weight"} for message in messages]


def _with_dialogues(row: Row) -> Row:
    """``messages``, or ``chosen`` and ``rejected``, from a dialogue's text, as in Anthropic's hh-rlhf."""
    if isinstance(talk := row.get("messages"), str) and DIALOGUE.match(talk):
        row = row | {"messages": read_dialogue(talk)}
    pair = [row.get(name) for name in ("chosen", "rejected")]
    if row.get("prompt") is not None or not all(isinstance(text, str) and DIALOGUE.match(text) for text in pair):
        return row
    return row | {name: read_dialogue(str(text)) for name, text in zip(("chosen", "rejected"), pair, strict=True)}


def read_dialogue(text: str) -> list[Message]:
    """The messages of a text whose turns begin with an empty line and ``Human:`` or ``Assistant:``."""
    _, *parts = DIALOGUE.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[name], "content": content.strip()} for name, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def without_nulls(value: Any) -> Any:
    """The value without keys that are null, at any depth: Arrow gives every object of a column all their keys."""
    if isinstance(value, Mapping):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def single_answer(messages: list[Message]) -> str | list[Message]:
    """The text of an answer that is one assistant message without calls; other messages as they are."""
    is_text = len(messages) == 1 and messages[0].keys() == {"role", "content"} and messages[0]["role"] == "assistant"
    return str(messages[0]["content"]) if is_text else messages


def read_tools(tools: Any) -> Any:
    """Schemas written as JSON, each or all of them, as objects; anything else as it is."""
    try:
        value = json.loads(tools) if isinstance(tools, str) else tools
        return [without_nulls(json.loads(t) if isinstance(t, str) else t) for t in value] if value else None
    except (ValueError, TypeError):
        return tools


def _without_prompt(row: Row) -> Row:
    """``chosen`` and ``rejected`` as the answers alone; what both start with is the prompt."""
    chosen, rejected = row["chosen"], row["rejected"]
    if chosen[0]["role"] != "assistant" or "prompt" not in row:
        same = 0
        while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
            same += 1
        row = row | ({"prompt": chosen[:same]} if same else {})
        chosen, rejected = chosen[same:], rejected[same:]
    return row | {"chosen": single_answer(chosen), "rejected": single_answer(rejected)}


def assistant_turns(messages: list[Message]) -> list[int]:
    """Indices of the assistant's messages that are learned: those without ``weight`` 0."""
    return [i for i, message in enumerate(messages) if message["role"] == "assistant" and message.get("weight", 1)]


def last_turn(messages: list[Message]) -> int:
    """Index of the last assistant message that is learned; -1: there is none."""
    return max(assistant_turns(messages), default=-1)


def _with_prompt(row: Row) -> Row:
    """A row of ``messages`` with the prompt that its last answer answers, and the system message of both."""
    messages: list[Message] = row["messages"]
    prompt = without_weights(messages[: max(0, last_turn(messages))])
    if row.get("prompt") is None and prompt:
        row = row | {"prompt": prompt}
    first = messages[0]
    is_system = first["role"] == "system" and isinstance(first["content"], str)
    return row | {"system": first["content"]} if is_system and not row.get("system") else row


def _with_system(row: Row) -> Row:
    """The prompt without its system message, which is the column ``system``; as text where it is one user message."""
    if not is_messages(row.get("prompt")):
        return row
    prompt: list[Message] = row["prompt"]
    first = prompt[0]
    is_system = first.keys() == {"role", "content"} and first["role"] == "system"
    if is_system and row.get("system") in (None, "", first["content"]):
        row, prompt = row | {"system": first["content"]}, prompt[1:]
    is_text = len(prompt) == 1 and prompt[0].keys() == {"role", "content"} and prompt[0]["role"] == "user"
    is_text = is_text and isinstance(prompt[0]["content"], str)
    return row | {"prompt": prompt[0]["content"] if is_text else prompt}


def as_messages(prompt: Prompt) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def question_text(prompt: Prompt) -> str:
    """A prompt as one text: the text of one user message, else each message headed by its role.

    It identifies the question: held-out rows, seeds and duplicates go by it. Rewards, judges and records see it.
    """
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return str(prompt[0]["content"])
    return "\n\n".join(f"{message['role']}: {_shown(message)}" for message in prompt)


def _shown(message: Message) -> str:
    calls = message.get("tool_calls")
    return f"{message['content']}{json.dumps(calls, ensure_ascii=False) if calls else ''}"


def with_system(messages: list[Message], system: str | None) -> list[Message]:
    """The messages after a system message, unless they have one or there is none."""
    has_own = bool(messages) and messages[0]["role"] == "system"
    return messages if has_own or not system else [{"role": "system", "content": system}, *messages]


def messages_of(row: Row) -> list[Message]:
    """What a teacher or a reward model reads: the row's prompt, or ``instructed``, after its system message."""
    return with_system(as_messages(row.get("instructed") or row["prompt"]), row.get("system"))


def with_instruction(prompt: Prompt, instruction: str | None) -> Prompt:
    """The prompt with the instruction at the end of its last user message, on a line of its own."""
    if not instruction:
        return prompt
    if isinstance(prompt, str):
        return f"{prompt}\n{instruction}"
    last = max((i for i, message in enumerate(prompt) if message["role"] == "user"), default=None)
    if last is None:
        return [*prompt, {"role": "user", "content": instruction}]
    return [
        *prompt[:last],
        prompt[last] | {"content": f"{prompt[last]['content']}\n{instruction}"},
        *prompt[last + 1 :],
    ]


def conversation_error(value: Any, column: str) -> str:
    """Why a list is no conversation that this column may hold; empty: it is one."""
    if not is_messages(value):
        return "an empty list, or not of messages"
    errors = (_message_error(message, number) for number, message in enumerate(value, 1))
    return next(filter(None, errors), "") or _order_error(value, column)


def _message_error(message: Mapping[str, Any], number: int) -> str:
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        return f"message {number} has the role {role!r}, none of {', '.join(ROLES)}"
    if not isinstance(message.get("content"), str):
        return f"the content of message {number} is no text"
    if message.get("weight", 0) != 0:
        return f"the weight of message {number} is {message['weight']!r}, neither 0 nor 1"
    return ""


def _order_error(messages: list[Message], column: str) -> str:
    """Why the roles of a column's messages are in no order that it may have."""
    roles, last = [message["role"] for message in messages], last_turn(messages)
    if column == "prompt" and roles[-1] in ("assistant", "system"):
        return f"a prompt ends before the assistant's turn, and this one with the role {roles[-1]}"
    if column == "messages" and last < 1:
        return "the assistant answers nothing" + " that has not the weight 0" * ("assistant" in roles[1:])
    if column == "messages" and roles[last - 1] in ("assistant", "system"):
        return f"the last answer follows the {roles[last - 1]}'s message, and no question"
    if column in ("chosen", "rejected") and roles[-1] != "assistant":
        return f"the last message is the {roles[-1]}'s and not the assistant's"
    if column in ("chosen", "rejected") and roles[0] != "assistant":
        return "chosen and rejected have no common start, which would be the prompt"
    return ""
