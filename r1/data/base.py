"""What every dataset option returns: rows with a prompt and an answer, a template, and a verifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from r1.completion import parse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
"""One example: ``prompt`` (the question, text), ``answer`` (gold, text) and, where known, ``completion`` (a worked
answer to learn from). Every further column is handed to the reward terms by its name."""

Verifier = Callable[[str, Row], bool]
"""``verifier(answer, row)``: is the one answer that a completion states right for this row?

It may have two attributes: ``many(answers, rows)``, the same for a whole batch, with the same knobs; ``pop_counts()``,
how many answers since the last call were wrong for a reason worth a metric, by name.
"""


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

    ``ask`` makes a row of a question typed by hand, where the answer can be worked out. ``held_out`` says which
    questions must never be learned, in ``val`` or not, where a question itself tells which side it is on.
    """

    train: list[Row]
    val: list[Row]
    template: Template
    verifier: Verifier
    ask: Callable[[str], Row | None] | None = None
    held_out: Callable[[str], bool] | None = None

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
        return self.all_correct([completion], [row])[0]

    def all_correct(self, completions: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        """``correct`` for each of B completions, faster: a verifier may look at a batch in parallel."""
        return verdicts(self.verifier, [parse(completion).answer for completion in completions], rows)

    def pop_scorer_counts(self) -> dict[str, int]:
        """The verifier's counts since the last call as metrics, ``scorer/timeouts``; empty if it counts nothing."""
        counts: dict[str, int] = getattr(_function(self.verifier), "pop_counts", dict)()
        return {f"scorer/{reason}": count for reason, count in counts.items()}


def verdicts(verifier: Verifier, answers: Sequence[str | None], rows: Sequence[Row]) -> list[bool]:
    """Whether each of B answers is right; None, no answer, is not. In one call where the verifier has ``many``.

    No answer to a question without a gold answer is right.
    """
    stated = [b for b, answer in enumerate(answers) if answer is not None and has_answer(rows[b])]
    texts, asked = [str(answers[b]) for b in stated], [rows[b] for b in stated]
    if many := getattr(_function(verifier), "many", None):
        found = many(texts, asked, **getattr(verifier, "keywords", {}))
    else:
        found = [verifier(text, row) for text, row in zip(texts, asked, strict=True)]
    right = {b for b, verdict in zip(stated, found, strict=True) if verdict}
    return [b in right for b in range(len(answers))]


def has_answer(row: Row) -> bool:
    """Whether there is a gold answer; an open-ended question has none."""
    return row.get("answer") is not None


def _function(verifier: Verifier) -> Any:
    """The function inside a ``partial``."""
    return verifier.func if isinstance(verifier, partial) else verifier
