"""The interface of the teachers, and the records that it exchanges: questions, answers, failures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from r1.core.seeds import derive_seed
from r1.data.base import Row
from r1.data.conversation import messages_of, question_text


@dataclass(frozen=True)
class Question:
    """A request for one answer.

    Attributes:
        row: the dataset row; its ``prompt`` is the question.
        sample: index of this answer among the row's answers.
        seed: 63 bits; determines the answer, as far as the backend allows.
    """

    row: Row
    sample: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """An answer of the teacher; it may be wrong, truncated or empty.

    Attributes:
        text: the complete completion, including thinking and any prefill of the teacher's template.
        finish_reason: ``stop``, ``length`` (truncated), or another value of the backend.
        prompt_tokens: number of tokens in the rendered question; 0: unknown.
        completion_tokens: number of generated tokens, including the stop token; 0: unknown.
        model: model name in the backend's response, which may differ from the requested name; empty: unknown.
        system_fingerprint: version in the backend's response; empty: unknown.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    model: str = ""
    system_fingerprint: str = ""


class Failure(Exception):
    """An attempt to get an answer failed.

    Args:
        kind: ``http_429``, ``timeout``, ``network`` or ``unreadable``; counted per kind.
        message: without secrets.
        retry_after: seconds to wait before the next attempt, as requested by the backend.
        retryable: another attempt may succeed.
        fatal: every other question would fail in the same way.
    """

    def __init__(
        self, kind: str, message: str, retry_after: float = 0.0, retryable: bool = True, fatal: bool = False
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.retry_after = kind, message, retry_after
        self.retryable, self.fatal = retryable, fatal


@dataclass(frozen=True)
class Reply:
    """The result of a question.

    Attributes:
        answer: None: every attempt failed.
        failures: the failed attempts, in order.
    """

    question: Question
    answer: Answer | None
    failures: Sequence[Failure] = ()


class Teacher(Protocol):
    """A model or program that answers questions."""

    name: str

    def identity(self, row: Row) -> dict[str, Any]:
        """All inputs of an answer besides ``Question.seed``: the rendered question, the model, the sampling.

        The cache stores answers under its hash, so it must differ between teachers and between their settings.
        """

    def answer(self, questions: Sequence[Question], check_for_stop: Callable[[], None]) -> Generator[list[Reply]]:
        """One reply per question, in any order, in lists of the replies that arrived since the last list.

        An answer depends on its question's ``identity`` and ``seed`` only, as far as the backend allows.
        ``check_for_stop`` is called several times per second; it raises if the run must stop. Replies that arrive
        shortly after that are still yielded before the generator raises the same error.
        """


def sample_seed(seed: int, prompt: str, sample: int) -> int:
    """The 63-bit seed of one answer, independent of the order and the number of the others."""
    return derive_seed(seed, "teacher", sample, prompt)


def questions(rows: Sequence[Row], num_samples: int, seed: int) -> list[Question]:
    """``num_samples`` questions for each row, grouped by row."""
    return [
        Question(row, k, sample_seed(seed, question_text(row["prompt"]), k)) for row in rows for k in range(num_samples)
    ]


def question_identity(row: Row) -> dict[str, Any]:
    """A row's question as part of an answer's identity: its text, or the messages and tools where it is more."""
    messages, tools = messages_of(row), row.get("tools")
    if len(messages) == 1 and messages[0]["role"] == "user" and not tools:
        return {"question": messages[0]["content"]}
    return {"messages": messages} | ({"tools": tools} if tools else {})


def set_values(**values: Any) -> dict[str, Any]:
    """The knobs that have a value, for an answer's identity: a new knob then leaves older answers their keys."""
    return {name: value for name, value in values.items() if value not in (None, {}, [])}


def content_key(inputs: dict[str, Any]) -> str:
    """sha256 over the inputs of an answer: its key in the cache."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
