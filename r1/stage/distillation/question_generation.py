"""Questions that the policy writes: the prompt, the end of a question, and the filter of new, answerable questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1.core.errors import errors_mounted_at
from r1.data.base import Data, Row
from r1.data.conversation import question_text
from r1.data.template.base import around_question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from r1.rollout.base import Rollout

REASONS = ("unfinished", "too_short", "not_answerable", "held_out", "duplicate")


class QuestionPrompt:
    """The template up to the start of the user's question (the pre-query template of Magpie, Xu et al. 2024).

    A question ends at a special token, at the text that the template puts behind it, or, with ``single_line``, at its
    first line break.

    Attributes:
        prompt_ids: the prompt, without a final space: tokenizers make it part of the next token (``" 3"``).
        stop_ids: tokens that end sampling.
    """

    def __init__(self, data: Data, tokenizer: PreTrainedTokenizerBase, single_line: bool) -> None:
        with errors_mounted_at(f"{next(iter(data.sources))}.template"):
            before, behind = around_question(data.template, tokenizer)
        self.tokenizer, self.end = tokenizer, "\n" if single_line else behind.rstrip()
        self.prompt_ids = list(tokenizer(before.rstrip(" "), add_special_tokens=False).input_ids)
        added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.stop_ids = added | set(tokenizer.all_special_ids)
        if single_line:  # one token may hold more than the line break, for example "?\n"
            self.stop_ids |= {i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])}

    def question(self, rollout: Rollout) -> str | None:
        """The question in a sampled text; None if it does not end."""
        text = str(self.tokenizer.decode(rollout.completion_ids, skip_special_tokens=True))
        question, end, _ = text.partition(self.end) if self.end else (text, "", "")
        return None if rollout.truncated and not end else question.strip()


class QuestionFilter:
    """Accepts questions that are answerable, new and not held out; counts the rejected ones by reason.

    Args:
        data: its ``row_from_question``, if any, parses a question into a row; its held-out questions are rejected.
        min_length: characters.

    Attributes:
        rows: the accepted questions, as rows without a completion.
        counts: all questions (``written``), and the rejected ones by ``REASONS``.
    """

    def __init__(self, data: Data, min_length: int) -> None:
        self.data, self.min_length = data, min_length
        self.rows: list[Row] = []
        self.counts = dict.fromkeys(("written", *REASONS), 0)
        self._val_questions = {normalise_question(question_text(row["prompt"])) for row in data.val}
        self._accepted: set[str] = set()

    def add(self, question: str | None) -> None:
        """Accept or reject one question."""
        self.counts["written"] += 1
        row = self._row_or_reason(question)
        if isinstance(row, str):
            self.counts[row] += 1
        else:
            self._accepted.add(normalise_question(row["prompt"]))
            self.rows.append(row)

    def _row_or_reason(self, question: str | None) -> Row | str:
        """The question's row, or the reason of ``REASONS`` for which it is rejected."""
        if question is None:
            return "unfinished"
        if len(question) < self.min_length:
            return "too_short"
        row = self.data.row_from_question(question) if self.data.row_from_question else {"prompt": question}
        if row is None:
            return "not_answerable"
        row = {column: value for column, value in row.items() if column != "completion"}  # the teacher writes it
        prompt = str(row["prompt"])
        key = normalise_question(prompt)
        if key in self._val_questions or (self.data.is_held_out and self.data.is_held_out(prompt)):
            return "held_out"
        return "duplicate" if key in self._accepted else row


def normalise_question(question: str) -> str:
    """A key that ignores case and white space."""
    return " ".join(question.split()).casefold()
