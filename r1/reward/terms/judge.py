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

Ask = Callable[[list[str]], list[str]]
"""The judge's replies to these prompts. Raises a UserError where it cannot give one of them."""


class Judge(Scorer):
    """Asks ``teacher``; the score is moved to 0 to 1.

    An answer that is empty (only thinking) earns 0 without being shown.

    Args:
        rubric: what a good answer is, in words for the judge.
        low, high: the scale on which the judge scores.
        thinking: show the judge the thinking, too; false: only what follows it.
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
        self, prompts: list[str], completions: list[str], poll: Callable[[], None] = no_op, **columns: Any
    ) -> list[float | None]:
        """(B,), 0 to 1; None where the judge's reply holds no score, or it could not be asked."""
        return self.score_cached(prompts, completions, lambda pairs: self.judged(pairs, partial(self.ask, poll)))

    def judged(self, pairs: list[Pair], ask: Ask) -> list[Outcome]:
        """One call for all; if it fails, one for each, so that one answer cannot cost the others their score."""
        asked = [pair for pair in pairs if pair[1].strip()]
        try:
            found = dict(zip(asked, judged(self.rubric, asked, ask), strict=True))
            self.num_errors = 0
        except UserError:
            found = {pair: self.judge_one(pair, ask) for pair in asked}
        return [found.get(pair, 0.0) for pair in pairs]

    def judge_one(self, pair: Pair, ask: Ask) -> Outcome:
        try:
            outcome = judged(self.rubric, [pair], ask)[0]
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

    def ask(self, poll: Callable[[], None], prompts: list[str]) -> list[str]:
        """The one place where the teacher is asked."""
        asked = questions([{"prompt": prompt} for prompt in prompts], 1, self.seed)
        replies = {reply.question.row["prompt"]: reply for come in self.teacher.answer(asked, poll) for reply in come}
        for reply in replies.values():
            if reply.answer is None:
                said = reply.failures[-1].message if reply.failures else ""
                raise UserError("the judge gave no answer", key="teacher", hint=said, code=REWARD)
        return [replies[prompt].answer.text for prompt in prompts]  # type: ignore[union-attr]  # none is None


def judged(rubric: Rubric, pairs: list[Pair], ask: Ask) -> list[Outcome]:
    """The score of each (question, answer), or ``parse_failures`` where a reply holds none."""
    replies = ask([rubric.prompt(question, answer) for question, answer in pairs]) if pairs else []
    scores = [rubric.score(reply) for reply in replies]
    return ["parse_failures" if score is None else score for score in scores]


def make_rubric(text: str, low: float, high: float, max_chars: int, seed: int) -> Rubric:
    """Raises: UserError: the scale is empty."""
    if high <= low:
        message = "this scale has no two different scores"
        raise UserError(message, key=".high", value=high, expected=f"number > {low:g} (low)")
    return Rubric(text, low, high, max_chars, seed)
