"""The columns of a row that r1 itself reads: the type of each, and where it is read. docs/data.md prints the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from r1.core.errors import DATA, UserError, as_yaml_null
from r1.data.conversation import conversation_error

Row = dict[str, Any]
"""One example, column -> value. ``COLUMNS`` has the columns that r1 reads and their types: ``prompt`` in every row,
``answer`` unless the question is open-ended, and more. Every further column is handed to the reward terms by its name.
"""
RUNTIME_ARGS = (
    "rows", "verifier", "completion_ids", "truncated", "max_completion_length", "frozen_policy", "check_for_stop"
)  # fmt: skip
RESERVED = frozenset(
    ("prompts", "completions", *RUNTIME_ARGS)
)  # every reward term gets them: no column may have such a name


MESSAGES = "text or a list of messages"
CORRECT_IT = (
    "correct it; on_bad_row=skip leaves such rows out, at most 1 % of all; columns.NAME=null reads no such column"
)


@dataclass(frozen=True)
class Column:
    """A column that r1 reads.

    Attributes:
        type: of its values, in words.
        is_valid: whether a value that is not null has the type.
        read_by: what reads it.
        required: every row has it. The others may be null, which means the same as no such column.
        internal: r1 itself writes it, and no file of a user may have it.
    """

    type: str
    is_valid: Callable[[Any], bool]
    read_by: str
    required: bool = False
    internal: bool = False


def is_text(value: Any) -> bool:
    """Whether it is text that UTF-8 can hold: JSON can escape half of a surrogate pair, which no tokenizer reads."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def is_visible_text(value: Any) -> bool:
    return is_text(value) and value.strip() != ""


def is_prompt(value: Any) -> bool:
    return is_visible_text(value) if isinstance(value, str) else not conversation_error(value, "prompt")


def is_answer_text(value: Any) -> bool:
    return is_text(value) if isinstance(value, str) else not conversation_error(value, "chosen")


def is_conversation(value: Any) -> bool:
    return not conversation_error(value, "messages")


def is_tools(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(tool, dict) for tool in value)


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def is_number(value: Any) -> bool:
    """A finite number; True and False are none."""
    if isinstance(value, int):
        return not isinstance(value, bool)  # of any size: isfinite would convert it to a float
    return isinstance(value, Real) and math.isfinite(value)


def is_answer(value: Any) -> bool:
    return is_visible_text(value) or is_number(value)


def is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


COLUMNS = {
    "prompt": Column(MESSAGES, is_prompt, "the template: the question", required=True),
    "answer": Column("text or a number", is_answer, "the verifier: the gold answer"),
    "completion": Column("text", is_text, "stage=sft, stage=distill_logits: the answer to learn"),
    "messages": Column(
        "list of messages", is_conversation, "stage=sft, stage=distill_logits: where no `completion` is"
    ),
    "system": Column("text", is_text, "the chat template: the system message, in place of data.template.system"),
    "tools": Column("list of objects", is_tools, "the chat template: the functions that the assistant may call"),
    "chat_template_kwargs": Column(
        "object", is_object, "the chat template: its variables, over data.template.chat_template_kwargs"
    ),
    "chosen": Column(MESSAGES, is_answer_text, "stage=reward_model: the preferred answer"),
    "rejected": Column(MESSAGES, is_answer_text, "stage=reward_model: the other answer"),
    "pass_rate": Column("number from 0 to 1", is_share, "data.min_pass_rate, data.max_pass_rate"),
    "weight": Column("number", is_number, "the reward terms alone, as any further column: no row weighs more"),
    "terms": Column("list of names", is_list_of_names, "the reward: the terms that apply; null: all"),
    "rendered": Column("text", is_text, "the tokenizer: a prompt that is rendered already", internal=True),
    "instructed": Column(
        MESSAGES, is_prompt, "the teacher: the question with the dataset's instruction", internal=True
    ),
    "private_question": Column(
        "true or false", is_flag, "the record: true: a hash in place of the question", internal=True
    ),
    "part": Column("text", is_text, "the mixture: the part that the row belongs to", internal=True),
}
LEARNED_INSTEAD = {"completion": "messages"}  # a column that stands for another one where that is null
TEXT_COLUMNS = frozenset(name for name, column in COLUMNS.items() if column.type in ("text", MESSAGES))
OF_TEMPLATE = frozenset(
    ("system", "tools", "chat_template_kwargs")
)  # empty where a row has none, wherever they are from
REQUIRED = frozenset(name for name, column in COLUMNS.items() if column.required)
INTERNAL = frozenset(name for name, column in COLUMNS.items() if column.internal)


def columns_learned(row: Row, columns: Sequence[str]) -> list[str]:
    """The columns that a stage learns of this row: ``messages`` where it has no ``completion``."""
    lacks = {name for name in columns if row.get(name) is None and row.get(LEARNED_INSTEAD.get(name, "")) is not None}
    return [LEARNED_INSTEAD[name] if name in lacks else name for name in columns]


def check_names(row: Row, location: str, key: str, forbidden: frozenset[str]) -> None:
    """Raises: UserError: a column has a forbidden name."""
    if taken := sorted(row.keys() & forbidden):
        message, hint = f"{location}: this column name is reserved: `{taken[0]}`", "rename the column, or leave it out"
        raise UserError(message, key=key, value=taken[0], hint=hint, code=DATA)


def check_row(
    row: Row, location: str, key: str, mapped: Mapping[str, str] | None = None, forbidden: frozenset[str] = RESERVED
) -> None:
    """Check the names of a row's columns, and the type of each column that r1 reads.

    Args:
        location: ``PATH:LINE``, or the split and the number of the row.
        key: config key for the error.
        mapped: r1's column -> the file's, of the columns that a config key names: these may not be empty.
        forbidden: names that no column may have.

    Raises:
        UserError: a name is forbidden, or a value is not of its column's type.
    """
    mapped = mapped or {}
    check_names(row, location, key, forbidden)
    for name in [name for name in COLUMNS if name in row or name in mapped or name in REQUIRED]:
        value, column = row.get(name), COLUMNS[name]
        if value is None:
            is_valid = not (column.required or name in mapped)
        else:
            is_valid = column.is_valid(value) and not (name in mapped and str(value).strip() == "")
        if not is_valid:
            source = mapped.get(name)
            raise type_error(name, value, location, source or name, f".columns.{name}" if source else key)


def type_error(name: str, value: Any, location: str, source: str, key: str) -> UserError:
    """The error of a value that is not of the type of r1's column ``name``; ``source`` is the column's name there."""
    column = COLUMNS[name]
    if isinstance(value, str) and not is_text(value):
        hint = "half of a surrogate pair, \\ud800 to \\udfff, is no character: remove it"
    elif isinstance(value, list) and "messages" in column.type:
        hint = conversation_error(value, name) or CORRECT_IT
    else:
        hint = CORRECT_IT
    return UserError(
        f"{location}: the column `{source}` holds no {column.type}",
        key=key,
        value=as_yaml_null(value),
        expected=column.type + ("" if column.required else " or null"),
        hint=hint,
        code=DATA,
    )


def require_text(row: Row, name: str, location: str) -> str:
    """A column that a dataset's own step reads. Raises: UserError: it holds no text."""
    if is_text(value := row.get(name)):
        return str(value)
    message = f"{location}: the column `{name}` holds no text"
    raise UserError(message, key=f".columns.{name}", value=as_yaml_null(value), expected="text", code=DATA)
