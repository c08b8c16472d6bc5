"""Questions that the policy writes itself: how it is prompted for one, where one ends, and which are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1.core.errors import errors_mounted_at
from r1.data.base import Data, Row
from r1.data.template.base import around_question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from r1.rollout.base import Rollout

REASONS = ("unfinished", "too_short", "not_answerable", "held_out", "duplicate")


class QuestionPrompt:
    """The template up to where the user's question starts (the pre-query template of Magpie, Xu et al. 2024).

    A question ends at a special token, at the text that the template puts behind it, or, with ``single_line``, at its
    first line break.

    Attributes:
        prompt_ids: what the model goes on from; without a space at the end, which tokenizers put into the next token.
        stop_ids: tokens at which it may stop.
    """

    def __init__(self, data: Data, tokenizer: PreTrainedTokenizerBase, single_line: bool) -> None:
        with errors_mounted_at(f"{next(iter(data.sources))}.template"):
            before, behind = around_question(data.template, tokenizer)
        self.tokenizer, self.end = tokenizer, "\n" if single_line else behind.rstrip()
        self.prompt_ids = list(tokenizer(before.rstrip(" "), add_special_tokens=False).input_ids)
        added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.stop_ids = added | set(tokenizer.all_special_ids)
        if single_line:
            self.stop_ids |= {i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])}

    def question(self, rollout: Rollout) -> str | None:
        """The question that was written; None: it did not come to its end."""
        written = str(self.tokenizer.decode(rollout.completion_ids, skip_special_tokens=True))
        text, end, _ = written.partition(self.end) if self.end else (written, "", "")
        return None if rollout.truncated and not end else text.strip()


class QuestionFilter:
    """Takes questions that can be answered, are new, and are not held out; counts the others by their reason.

    Args:
        data: its ``ask``, where it has one, says what is a question; what it holds out is never taken.
        min_length: characters.

    Attributes:
        rows: what was taken, as rows without a completion.
        counts: questions seen, ``written``, and how many were rejected for each of ``REASONS``.
    """

    def __init__(self, data: Data, min_length: int) -> None:
        self.data, self.min_length = data, min_length
        self.rows: list[Row] = []
        self.counts = dict.fromkeys(("written", *REASONS), 0)
        self._held_out = {plain(row["prompt"]) for row in data.val}
        self._taken: set[str] = set()

    def see(self, question: str | None) -> None:
        """Take one question, or reject it."""
        self.counts["written"] += 1
        row = self._row(question)
        if isinstance(row, str):
            self.counts[row] += 1
        else:
            self._taken.add(plain(row["prompt"]))
            self.rows.append(row)

    def _row(self, question: str | None) -> Row | str:
        """The question's row, or why it is not taken."""
        if question is None:
            return "unfinished"
        if len(question) < self.min_length:
            return "too_short"
        row = self.data.row_from_question(question) if self.data.row_from_question else {"prompt": question}
        if row is None:
            return "not_answerable"
        row = {column: value for column, value in row.items() if column != "completion"}  # the teacher's to write
        asked = str(row["prompt"])
        if plain(asked) in self._held_out or (self.data.is_held_out and self.data.is_held_out(asked)):
            return "held_out"
        return "duplicate" if plain(asked) in self._taken else row


def plain(question: str) -> str:
    """What makes two questions the same: neither case nor spaces."""
    return " ".join(question.split()).casefold()
