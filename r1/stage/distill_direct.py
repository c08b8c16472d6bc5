"""Direct distillation: the student writes its own questions, the teacher answers them, the student learns.

The initial student samples questions: its prompt is the chat template up to the start of the user's question (Magpie,
Xu et al. 2024). A filter accepts the new, answerable ones. Everything else is ``Distill``.
"""

from __future__ import annotations

from typing import Annotated, Unpack

from annotated_types import Ge, Gt

from r1.core.console import console, status_line
from r1.core.errors import DATA, UserError
from r1.core.seeds import derive_seed
from r1.data.base import Row
from r1.rollout.base import Sampling
from r1.stage.base import StageParts
from r1.stage.distill import Distill, DistillOptions
from r1.stage.distillation.filters import Filters
from r1.stage.distillation.question_generation import REASONS, QuestionFilter, QuestionPrompt
from r1.stage.distillation.traces import RowsAndCounts, format_counts, load_or_make
from r1.teacher.base import Teacher

QUESTIONS_PER_BATCH = 256


class DistillDirect(Distill):
    """SFT on a teacher's answers to questions that the student writes.

    Args:
        num_questions: accepted questions.
        max_tries: limit of sampled questions, as a multiple of ``num_questions``.
        question_temperature: divides the logits of a question's tokens; the other knobs are those of the rollout, apart
            from its stop texts.
        min_question_length: characters; shorter ones are rejected.
        max_question_length: tokens; a question that does not end by then is rejected.
        single_line: a question ends at its first line break.
    """

    writes_questions = True

    def __init__(
        self,
        parts: StageParts,
        teacher: Teacher,
        filters: Filters,
        *,
        max_tries: Annotated[int, Ge(1)],
        question_temperature: Annotated[float, Gt(0)],
        min_question_length: Annotated[int, Ge(1)],
        max_question_length: Annotated[int, Ge(1)],
        single_line: bool,
        **distill: Unpack[DistillOptions],
    ) -> None:
        super().__init__(parts, teacher, filters, **distill)
        self.max_tries, self.single_line, self.min_question_length = max_tries, single_line, min_question_length
        sampling: Sampling = {**parts.engine.sampling, "temperature": question_temperature, "stop": []}
        self.question_engine = parts.engine.with_sampling(sampling, self.tokenizer)
        self.question_engine.max_completion_length = max_question_length

    def setup(self, stage: str) -> None:
        if stage == "fit":  # the policy must sample now; Lightning loads and moves it only after this hook
            self.configure_model()
            self.policy.to(self.trainer.strategy.root_device)  # type: ignore[arg-type]  # transformers hides it
        super().setup(stage)

    def load_or_make_traces(self) -> RowsAndCounts:
        """As ``Distill``, after the student's questions; both are read back in a resumed run."""
        file = self.files.questions if self.files else None
        self.generated_questions, self.question_counts = load_or_make(file, self.generate_questions)
        return super().load_or_make_traces()

    def questions(self) -> list[Row]:
        return self.generated_questions

    def generate_questions(self) -> RowsAndCounts:
        """``num_questions`` accepted questions, and the counts of the rejected ones.

        Raises:
            UserError: too few are accepted within ``max_tries``.
        """
        self.question_engine.update(self.policy, 0)
        prompt = QuestionPrompt(self.data, self.tokenizer, self.single_line)
        accepted = QuestionFilter(self.data, self.min_question_length)
        limit = self.num_questions * self.max_tries
        for start in range(0, limit, QUESTIONS_PER_BATCH):
            for question in self.sample_questions(prompt, range(start, min(start + QUESTIONS_PER_BATCH, limit))):
                # Not one more than needed: the counts then do not depend on the size of a batch.
                if len(accepted.rows) < self.num_questions:
                    accepted.add(question)
            if len(accepted.rows) == self.num_questions:
                counts = {name: count for name, count in accepted.counts.items() if count}
                text = f"{self.num_questions} questions written by the student were accepted: {format_counts(counts)}"
                console.print(status_line(text))
                return accepted.rows, accepted.counts
        raise UserError(
            f"the student wrote {limit} questions, of which {len(accepted.rows)} were accepted",
            key="stage.num_questions",
            value=format_counts(accepted.counts),
            expected=f"{self.num_questions} of them within stage.max_tries={self.max_tries} times as many",
            hint="lower stage.num_questions, raise stage.max_tries, or take a student that has read such prompts",
            code=DATA,
        )

    def sample_questions(self, prompt: QuestionPrompt, numbers: range) -> list[str | None]:
        """The questions with these numbers; None where a question does not end."""
        seeds = [[derive_seed(self.seed, "question", number)] for number in numbers]
        prompts = [prompt.prompt_ids] * len(numbers)
        groups = self.question_engine.generate(prompts, seeds, prompt.stop_ids, self.run.check_for_stop)
        return [prompt.question(rollout) for (rollout,) in groups]

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.trainer.global_step == 0 and self.run.ranks.is_rank_zero:
            counts = self.question_counts
            shares = {f"questions/{reason}": counts[reason] / counts["written"] for reason in REASONS}
            self.report({"questions/written": float(counts["written"])} | shares)
