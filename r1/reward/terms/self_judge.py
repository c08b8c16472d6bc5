"""The initial policy judges the completions of the trained one (Yuan et al. 2024, self-rewarding, one round)."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, MinLen

from r1.core.seeds import derive_seed
from r1.data.template.chat import check_variables
from r1.reward.initial_policy import InitialPolicy
from r1.reward.scorer import Scorer
from r1.reward.terms.judge import judge_batch, make_rubric
from r1.rollout.base import Engine


class SelfJudge(Scorer):
    """Rubric, quoting and scale are those of ``judge``; the frozen initial policy writes the reply.

    Args:
        engine: samples the replies.
        rubric: the description of a good answer, for the judge.
        low, high: the scale on which the judge scores.
        thinking: show the judge the thinking, too; false: only the text after it.
        max_chars: of a question and of an answer, each; the rest is cut.
        chat_template_kwargs: variables of the policy's chat template, for the judge alone.
        seed: keys the judge's sampling and the tags that answers are quoted in.

    Raises:
        UserError: the scale is empty, or a variable is not the user's to set.
    """

    reasons = ("parse_failures",)

    def __init__(
        self,
        *,
        engine: Engine,
        rubric: Annotated[str, MinLen(1)],
        low: Annotated[float, Ge(0)],
        high: Annotated[float, Ge(0)],
        thinking: bool,
        max_chars: Annotated[int, Ge(1)],
        chat_template_kwargs: dict[str, Any] | None,
        seed: Annotated[int, Ge(0)],
    ) -> None:
        super().__init__(thinking)
        self.engine, self.seed = engine, seed
        self.variables = check_variables(chat_template_kwargs or {})
        self.rubric = make_rubric(rubric, low, high, max_chars, seed)

    def __call__(
        self, prompts: list[str], completions: list[str], frozen_policy: InitialPolicy, **columns: Any
    ) -> list[float | None]:
        """(B,), 0 to 1; None where the reply states no score."""

        def query(judge_prompts: list[str]) -> list[str]:
            seeds = [derive_seed(self.seed, "judge", prompt) for prompt in judge_prompts]
            return frozen_policy.answer(self.engine, judge_prompts, seeds, self.variables)

        return self.score_cached(prompts, completions, lambda pairs: judge_batch(self.rubric, pairs, query))
