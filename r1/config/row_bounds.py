"""Rows that fit for certain, found without rendering each: by one rendered row of the same kind.

A chat template can treat two texts differently only by what it compares them with: its own string constants. So rows
are of one kind where their messages have the same roles, and each text has the same of these constants. If the template
copies the texts of such a row as they are and once, another row of the kind has at most the tokens of its own texts and
of what stands around them. All other rows are rendered.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from r1.core.errors import UserError
from r1.data.base import Data, Row
from r1.data.columns import columns_learned
from r1.data.conversation import Message, as_messages
from r1.data.template.chat import THINK_TAGS, Chat, specials
from r1.model.tokens import max_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_RENDERED = (
    2,
    5,
    10,
)  # the rows of a kind, all rendered so far, of which the frame is measured; the last try is final
PLAIN = {"role", "content"}


class Frame(NamedTuple):
    """What a template writes around the texts of a row, at most, and the fewest tokens that a text of it may have."""

    max_tokens: float
    limit: float


class RowBounds:
    """Finds rows that fit for certain.

    Args:
        columns: those that are learned from.
        texts: (text, most tokens) of everything of a row that the model reads.
    """

    def __init__(
        self,
        data: Data,
        tokenizer: PreTrainedTokenizerBase,
        columns: Sequence[str],
        texts: Callable[[Row], Iterator[tuple[str, float]]],
    ) -> None:
        self.data, self.tokenizer, self.columns, self.texts = data, tokenizer, columns, texts
        self.frames: dict[Hashable, Frame] = {}
        self.counts: Counter[Hashable] = Counter()

    def fits(self, row: Row) -> bool:
        """Whether all of a row's texts certainly fit; False: it must be rendered."""
        messages = self.messages(row)
        if messages is None or (kind := self.kind(row, messages)) is None:
            return False
        frame = self.frames.get(kind)
        if frame is None:
            self.counts[kind] += 1
            frame = self.measure(row, messages) if self.counts[kind] in NUM_RENDERED else None
            if frame is None:
                return False
            self.frames[kind] = frame
        return frame.max_tokens + self.max_content_tokens(messages) <= frame.limit

    def messages(self, row: Row) -> list[Message] | None:
        """All messages of a row, several answers to one question behind each other; None: they are not plain texts."""
        names = columns_learned(row, self.columns)
        answers = [row[name] for name in names if name != "messages"]
        if row.get("rendered") or row.get("tools") or not all(isinstance(answer, str) for answer in answers):
            return None
        messages = self.data.conversation(row) if "messages" in names else as_messages(self.data.question(row))
        is_plain = all(message.keys() == PLAIN and isinstance(message["content"], str) for message in messages)
        return [*messages, *({"role": "answer", "content": answer} for answer in answers)] if is_plain else None

    def kind(self, row: Row, messages: list[Message]) -> Hashable | None:
        """All of a row that its template may decide by; None: a text holds special tokens."""
        template = self.data.template_of(self.tokenizer, row)
        if not isinstance(template, Chat) or not isinstance(self.tokenizer.chat_template, str):
            return None
        constants = string_constants(self.tokenizer.chat_template)
        special = special_pattern(self.tokenizer)
        traits = []
        for message in messages:
            text = message["content"]
            if special.search(text):
                return None
            ends = not text, text[:1].isspace(), text[-1:].isspace()
            traits.append((message["role"], *ends, *(tag in text for tag in constants), *map(text.count, THINK_TAGS)))
        return self.data.source_of(row)[0], template, *traits

    def measure(self, row: Row, messages: list[Message]) -> Frame | None:
        """The frame of a row's kind; None: its texts are not copied as they are and once."""
        marks = iter(map(chr, range(0xE000, 0xF8FF)))  # characters for private use
        try:
            limited = list(self.texts(row))
            marked = [text for text, _ in self.texts(marked_row(row, self.columns, marks))]
        except (UserError, StopIteration):  # the row is rendered, and has its message, like any other
            return None
        if not limited:  # a model without a longest context
            return Frame(0, math.inf)
        texts, limits = zip(*limited, strict=True)
        if not all(is_copied(*pair) for pair in zip(texts, marked, strict=True)):
            return None
        around = max(max_tokens(self.tokenizer, text) for text in texts) - self.max_content_tokens(messages)
        return Frame(max(0, around), min(limits))

    def max_content_tokens(self, messages: list[Message]) -> float:
        return sum(max_tokens(self.tokenizer, message["content"]) for message in messages)


def marked_row(row: Row, columns: Sequence[str], marks: Iterator[str]) -> Row:
    """The row with another mark in the middle of each of its texts."""

    def mark(value: str | list[Message] | None) -> str | list[Message] | None:
        if isinstance(value, str):
            middle = len(value) // 2
            return value[:middle] + next(marks) + value[middle:]
        return value and [message | {"content": mark(message["content"])} for message in value]

    return row | {name: mark(row[name]) for name in {"prompt", "system", "messages", *columns} & row.keys()}


def is_copied(text: str, marked: str) -> bool:
    """Whether a text with marks is the same but for these, each of which it has once at most."""
    marks = re.findall("[\ue000-\uf8fe]", marked)
    return len(marks) == len(set(marks)) and re.sub("[\ue000-\uf8fe]", "", marked) == text


@lru_cache(maxsize=16)
def string_constants(chat_template: str) -> list[str]:
    """The different strings in a Jinja template's expressions, without those of white space alone."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        tokens = list(Environment(autoescape=False).lexer.tokenize(chat_template))
    except TemplateSyntaxError:
        return []  # so rendering fails as well
    return sorted({str(token.value) for token in tokens if token.type == "string" and str(token.value).strip()})


@lru_cache(maxsize=16)
def special_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    tokens = sorted(specials(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, tokens)) or r"(?!)")
