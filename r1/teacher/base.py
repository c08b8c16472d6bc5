"""What every teacher does: answer questions, and hand over what has come as soon as it is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from r1.core.seeds import derive_seed
from r1.data.base import Row


@dataclass(frozen=True)
class Question:
    """One answer that is wanted.

    Attributes:
        row: the dataset row; its ``prompt`` is the question.
        sample: which of the row's answers, from 0.
        seed: 63 bits that decide the answer, as far as the backend allows.
    """

    row: Row
    sample: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """One answer as the teacher gave it; it may be wrong, cut short or empty.

    Attributes:
        text: the whole completion, thinking and any prefill of the teacher's own template included.
        finish_reason: ``stop``, ``length`` (cut short), or whatever else the backend says.
        prompt_tokens: tokens of the question as the teacher read it; 0 where the backend does not say.
        completion_tokens: tokens it wrote, the closing one included; 0 where the backend does not say.
        model: what the backend says has answered, which need not be what was asked for; empty where it does not say.
        system_fingerprint: the backend's word for its own version; empty where it does not say.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    model: str = ""
    system_fingerprint: str = ""


class Failure(Exception):
    """An attempt came to nothing.

    Args:
        kind: what it is counted under: ``http_429``, ``timeout``, ``network``, ``unreadable``.
        message: without secrets.
        retry_after: seconds that the backend asks to wait.
        retryable: another attempt may succeed.
        fatal: every other question would meet it too.
    """

    def __init__(
        self, kind: str, message: str, retry_after: float = 0.0, retryable: bool = True, fatal: bool = False
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.retry_after, self.retryable, self.fatal = (
            kind,
            message,
            retry_after,
            retryable,
            fatal,
        )


@dataclass(frozen=True)
class Reply:
    """What came of a question.

    Attributes:
        answer: None: there is none, for the reason that the last of ``failures`` gives.
        failures: the attempts before it, or all of them.
    """

    question: Question
    answer: Answer | None
    failures: Sequence[Failure] = ()


class Teacher(Protocol):
    """Anything that answers questions."""

    name: str

    def identity(self, row: Row) -> dict[str, Any]:
        """All that decides an answer besides ``Question.seed``: the question as it is asked, the model, the sampling.

        Answers are stored under its hash: two teachers, or two settings of one, must not have the same.
        """

    def answer(self, questions: Sequence[Question], poll: Callable[[], None]) -> Generator[list[Reply]]:
        """One reply to every question, in any order, in lists of what has come since the last list.

        An answer is decided by its question's ``identity`` and ``seed`` and by nothing else, as far as the backend
        allows. ``poll`` is called several times per second at least; it raises if the run is asked to stop, and what
        arrives within a moment is still handed over before the generator raises too.
        """


def sample_seed(seed: int, prompt: str, sample: int) -> int:
    """The 63-bit seed of one answer: free of the order and the number of the others."""
    return derive_seed(seed, "teacher", sample, prompt)


def questions(rows: Sequence[Row], num_samples: int, seed: int) -> list[Question]:
    """``num_samples`` questions for each row: those of the first row first."""
    return [Question(row, k, sample_seed(seed, row["prompt"], k)) for row in rows for k in range(num_samples)]


def content_key(asked: dict[str, Any]) -> str:
    """sha256 over what decides an answer."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
