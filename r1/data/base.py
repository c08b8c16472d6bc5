"""What every dataset option returns: rows with a prompt and an answer, a template, and a verifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from r1.completion import parse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
"""One example: ``prompt`` (the question, text), ``answer`` (gold, text) and, where known, ``completion`` (a worked
answer to learn from). Every further column is handed to the reward terms by its name."""

Verifier = Callable[[str, Row], bool]
"""``verifier(answer, row)``: is the one answer that a completion states right for this row?"""


class Template(Protocol):
    """How a question becomes the text that the model continues."""

    prefill: str

    def render(self, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
        """The whole text before the completion, special tokens and ``prefill`` included."""

    def end(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The token that closes a completion."""


class Shared(TypedDict):
    """The knobs that every dataset option has (conf/data/_base.yaml)."""

    template: Template
    verifier: Verifier


@dataclass(frozen=True)
class Data:
    """A dataset: ``train`` rows to learn from, ``val`` rows held out, and how to render and to verify them.

    ``ask`` makes a row of a question typed by hand, where the answer can be worked out.
    """

    train: list[Row]
    val: list[Row]
    template: Template
    verifier: Verifier
    ask: Callable[[str], Row | None] | None = None

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, row: Row) -> list[int]:
        """Token ids of everything before the completion. A row may carry its own ``rendered`` prompt text."""
        text = row.get("rendered") or self.template.render(tokenizer, row["prompt"])
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    def completion_ids(self, tokenizer: PreTrainedTokenizerBase, row: Row) -> list[int]:
        """Token ids of the completion to learn, its closing token included and the template's prefill left out."""
        text = row["completion"].removeprefix(self.template.prefill) + self.template.end(tokenizer)
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    def correct(self, completion: str, row: Row) -> bool:
        """Whether a whole completion (prefill included) states the right answer."""
        answer = parse(completion).answer
        return answer is not None and self.verifier(answer, row)
