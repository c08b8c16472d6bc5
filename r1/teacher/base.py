"""What every teacher does: answer each row's question a number of times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from r1.data.base import Row
from r1.seeds import key


@dataclass(frozen=True)
class Answer:
    """One answer as the teacher gave it; it may be wrong, cut short or empty.

    Attributes:
        text: the whole completion, thinking and any prefill of the teacher's own template included.
        finish_reason: ``stop``, ``length`` (cut short), or whatever else the backend says.
        prompt_tokens: tokens of the question as the teacher read it; 0 where the backend does not say.
        completion_tokens: tokens it wrote, the closing one included; 0 where the backend does not say.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Teacher(Protocol):
    """Anything that answers questions."""

    name: str

    def answer(self, rows: list[Row], num_samples: int, seed: int) -> list[list[Answer]]:
        """``num_samples`` answers to each row's ``prompt``: outer list rows, inner list samples.

        Sample k of a row is decided by ``sample_seed(seed, row["prompt"], k)`` and by nothing else, as far as
        the backend allows.
        """


def sample_seed(seed: int, prompt: str, sample: int) -> int:
    """The 63-bit seed of one answer: free of the order and the number of the others."""
    return key(seed, "teacher", sample, prompt)
