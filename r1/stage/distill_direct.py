"""Direct distillation: the student writes its own questions, the teacher answers them, the student learns.

Questions are sampled from the student as it starts, by having it go on from its template up to where a user's question
begins (Magpie, Xu et al. 2024); a sieve leaves those that can be answered and are new. All else is ``Distill``.
"""

from __future__ import annotations

import copy
import json
from typing import Annotated, Unpack

from annotated_types import Ge, Gt

from r1.core import jsonl
from r1.core.console import console, status_line
from r1.core.errors import DATA, UserError
from r1.core.seeds import derive_seed
from r1.data.base import Row
from r1.stage.base import StageParts
from r1.stage.distill import Distill, DistillOptions
from r1.stage.distillation.filters import Filters
from r1.stage.distillation.question_generation import REASONS, QuestionFilter, QuestionPrompt
from r1.stage.distillation.traces import write_traces
from r1.teacher.base import Teacher

WRITTEN_AT_ONCE = 256  # between two looks at whether there are enough


class DistillDirect(Distill):
    """Learn a teacher's answers to questions of the student's own.

    Args:
        num_questions: questions that are taken.
        max_tries: questions written at most, as a multiple of ``num_questions``.
        question_temperature: divides the logits while a question is written.
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
        self.question_engine = copy.copy(parts.engine)
        self.question_engine.temperature, self.question_engine.max_completion_length = (
            question_temperature,
            max_question_length,
        )

    def setup(self, stage: str) -> None:
        if stage == "fit":  # Lightning would load the policy, and move it, only after this
            self.configure_model()
            self.policy.to(self.trainer.strategy.root_device)  # type: ignore[arg-type]  # transformers hides it
        super().setup(stage)

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.trainer.global_step == 0 and self.run.ranks.is_rank_zero:
            counts = self.question_counts
            shares = {f"questions/{reason}": counts[reason] / counts["written"] for reason in REASONS}
            self.report({"questions/written": float(counts["written"])} | shares)

    def kept(self) -> tuple[list[Row], dict[str, int]]:
        """As ``Distill``, the student's questions first: read back where the run has them."""
        file = self.run.record.dir / "traces" / "questions.jsonl" if self.run.record else None
        if file and file.is_file():
            self.asked = jsonl.read_rows(file)
            self.question_counts = json.loads(file.with_suffix(".json").read_bytes())["counts"]
        else:
            self.asked, self.question_counts = self.write_questions()
            counted = ", ".join(f"{name} {count}" for name, count in self.question_counts.items() if count)
            console.print(status_line(f"{len(self.asked)} questions of the student's own were taken: {counted}"))
            if file:
                write_traces(file, self.asked, self.question_counts)
        return super().kept()

    def questions(self) -> list[Row]:
        return self.asked

    def write_questions(self) -> tuple[list[Row], dict[str, int]]:
        """``num_questions`` rows, and the sieve's counts. Raises: UserError: too few are taken in ``max_tries``."""
        self.question_engine.update(self.policy, 0)
        opening = QuestionPrompt(self.data, self.tokenizer, self.single_line)
        sieve = QuestionFilter(self.data, self.min_question_length)
        limit = self.num_questions * self.max_tries
        while len(sieve.rows) < self.num_questions and sieve.counts["written"] < limit:
            start = sieve.counts["written"]
            numbers = range(start, min(start + WRITTEN_AT_ONCE, limit))
            seeds = [[derive_seed(self.seed, "question", i)] for i in numbers]
            prompts = [opening.prompt_ids for _ in numbers]
            for (rollout,) in self.question_engine.generate(prompts, seeds, opening.stop_ids, self.run.check_for_stop):
                if len(sieve.rows) < self.num_questions:
                    sieve.see(opening.question(rollout))
        if len(sieve.rows) < self.num_questions:
            raise UserError(
                f"the student wrote {limit} questions, of which {len(sieve.rows)} were taken",
                key="stage.num_questions",
                value=", ".join(f"{name} {count}" for name, count in sieve.counts.items()),
                expected=f"{self.num_questions} of them within stage.max_tries={self.max_tries} times as many",
                hint="lower stage.num_questions, raise stage.max_tries, or take a student that has read such prompts",
                code=DATA,
            )
        return sieve.rows, sieve.counts
