"""A model scores each answer by a rubric: for questions without a gold answer (DeepSeek-R1 2.3.4)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from r1.core.errors import REWARD, UserError
from r1.reward.rubric import Rubric
from r1.reward.scorer import Outcome, Pair, Scorer
from r1.rollout.base import no_op
from r1.teacher.base import Teacher, questions

Query = Callable[[list[str]], list[str]]
"""The judge's replies to these prompts. Raises a UserError if one of them has no reply."""


class Judge(Scorer):
    """Queries ``teacher``; the score is mapped from ``low``..``high`` to 0..1.

    An answer that is empty (only thinking) earns 0 without a query.

    Args:
        rubric: the description of a good answer, for the judge.
        low, high: the scale on which the judge scores.
        thinking: show the judge the thinking, too; false: only the text after it.
        max_chars: of a question and of an answer, each; the rest is cut.
        max_errors: answers in a row that the judge may fail on; then the run stops.
        seed: keys the judge's sampling and the tags that answers are quoted in.

    Raises:
        UserError: the scale is empty.
    """

    reasons = ("parse_failures", "errors")
    transient_errors = ("errors",)

    def __init__(
        self,
        *,
        teacher: Teacher,
        rubric: Annotated[str, MinLen(1)],
        low: Annotated[float, Ge(0)],
        high: Annotated[float, Ge(0)],
        thinking: bool,
        max_chars: Annotated[int, Ge(1)],
        max_errors: Annotated[int, Ge(0)],
        seed: Annotated[int, Ge(0)],
    ) -> None:
        super().__init__(thinking)
        self.rubric = make_rubric(rubric, low, high, max_chars, seed)
        self.teacher, self.max_errors, self.seed = teacher, max_errors, seed
        self.num_errors = 0  # in a row

    def __call__(
        self, prompts: list[str], completions: list[str], check_for_stop: Callable[[], None] = no_op, **columns: Any
    ) -> list[float | None]:
        """(B,), 0 to 1; None where the judge's reply states no score, or there is no reply."""
        return self.score_cached(
            prompts, completions, lambda pairs: self.judge_pairs(pairs, partial(self.query, check_for_stop))
        )

    def judge_pairs(self, pairs: list[Pair], query: Query) -> list[Outcome]:
        """One call for all; if it fails, one for each, so that one answer cannot cost the others their score."""
        nonempty = [pair for pair in pairs if pair[1].strip()]
        try:
            outcomes = dict(zip(nonempty, judge_batch(self.rubric, nonempty, query), strict=True))
            self.num_errors = 0
        except UserError:
            outcomes = {pair: self.judge_one(pair, query) for pair in nonempty}
        return [outcomes.get(pair, 0.0) for pair in pairs]

    def judge_one(self, pair: Pair, query: Query) -> Outcome:
        """One answer; too many failures in a row end the run."""
        try:
            outcome = judge_batch(self.rubric, [pair], query)[0]
        except UserError as error:
            self.num_errors += 1
            if self.num_errors > self.max_errors:
                error.mounted_at("teacher")
                raise UserError(
                    f"the judge failed on {self.num_errors} answers in a row: {error.message}",
                    key=f".{error.key}",
                    value=error.value,
                    expected=error.expected,
                    hint=error.hint,
                    code=REWARD,
                ) from None
            return "errors"
        self.num_errors = 0
        return outcome

    def query(self, check_for_stop: Callable[[], None], prompts: list[str]) -> list[str]:
        """The teacher's replies, in the order of the prompts."""
        queries = questions([{"prompt": prompt} for prompt in prompts], 1, self.seed)
        texts: dict[str, str] = {}
        for reply in (reply for batch in self.teacher.answer(queries, check_for_stop) for reply in batch):
            if reply.answer is None:
                reason = reply.failures[-1].message if reply.failures else ""
                raise UserError("the judge gave no answer", key="teacher", hint=reason, code=REWARD)
            texts[reply.question.row["prompt"]] = reply.answer.text
        return [texts[prompt] for prompt in prompts]


def judge_batch(rubric: Rubric, pairs: list[Pair], query: Query) -> list[Outcome]:
    """The score of each (question, answer), or ``parse_failures`` where a reply states no score."""
    replies = query([rubric.prompt(question, answer) for question, answer in pairs]) if pairs else []
    scores = [rubric.score(reply) for reply in replies]
    return ["parse_failures" if score is None else score for score in scores]


def make_rubric(text: str, low: float, high: float, max_chars: int, seed: int) -> Rubric:
    """Raises: UserError: the scale is empty."""
    if high <= low:
        message = "the scale needs two different scores"
        raise UserError(message, key=".high", value=high, expected=f"number > {low:g} (low)")
    return Rubric(text, low, high, max_chars, seed)
