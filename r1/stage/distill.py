"""Sequence-level distillation: SFT on the answers of a teacher that the filters accept (DeepSeek-R1 sec. 2.4).

Two phases, in this order below: ``setup`` makes the training rows (questions -> answers -> filters -> traces), then
``Sft`` trains on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, ClassVar, Unpack

from annotated_types import Ge

from r1.core.errors import DATA, UserError
from r1.data.base import Row, without_instruction
from r1.data.rows import Rows
from r1.model.tokens import context_length
from r1.stage.base import StageParts
from r1.stage.distillation.answer_cache import AnswerCache
from r1.stage.distillation.filters import Filters
from r1.stage.distillation.teacher_queries import ModelChange, TeacherAnswers, query_teacher
from r1.stage.distillation.traces import RowsAndCounts, TraceFiles, format_counts, load_or_make, trace_files
from r1.stage.sft import Sft, SftOptions
from r1.teacher.base import Answer, Teacher
from r1.teacher.base import questions as teacher_questions


class DistillOptions(SftOptions):
    """The knobs that distillation and ``DistillDirect`` share."""

    num_questions: Annotated[int, Ge(1)]
    answers_per_question: Annotated[int, Ge(1)]
    store: str | None
    teacher_seed: int | None
    model_change: ModelChange


class Distill(Sft):
    """SFT on a teacher's answers to the training questions; the answers are part of the run's record.

    Args:
        filters: the conditions that accept an answer (nested group ``stage/filters``).
        num_questions: training questions put to the teacher, the first of the split.
        answers_per_question: n answers each.
        store: file of the answer cache; null: in the run's record.
        teacher_seed: of the answers; null: the run's.
        model_change: ``stop`` or ``accept``, once the teacher reports another model than in earlier answers.
    """

    required_columns: ClassVar[tuple[str, ...]] = ()  # the teacher writes the completions
    teacher: Teacher
    filters: Filters

    def __init__(
        self,
        parts: StageParts,
        teacher: Teacher,
        filters: Filters,
        *,
        num_questions: Annotated[int, Ge(1)],
        answers_per_question: Annotated[int, Ge(1)],
        store: str | None,
        teacher_seed: int | None,
        model_change: ModelChange,
        **sft: Unpack[SftOptions],
    ) -> None:
        super().__init__(parts, **sft)
        self.teacher, self.filters = teacher, filters
        self.num_questions, self.answers_per_question = num_questions, answers_per_question
        self.store, self.model_change = Path(store) if store else None, model_change
        self.teacher_seed = parts.seed if teacher_seed is None else teacher_seed
        if self.store:
            AnswerCache(self.store, "stage.store", self.run.check_for_stop)  # raises if the file is something else

    # ---- phase 1: the training rows ----

    def setup(self, stage: str) -> None:
        if stage == "fit":
            with self.summon_full_params():  # one rank queries: answers cost money, and the cache has one writer
                rows, self.counts = self.run.ranks.broadcast_from_rank_zero(self.load_or_make_traces)
            self.data = dataclasses.replace(self.data, train=Rows.of(rows))

    @property
    def files(self) -> TraceFiles | None:
        return trace_files(self.run)

    def load_or_make_traces(self) -> RowsAndCounts:
        """The accepted answers as training rows, with counts of all answers; read back in a resumed run."""
        return load_or_make(self.files.traces if self.files else None, self.make_traces)

    def make_traces(self) -> RowsAndCounts:
        """Query the teacher and filter its answers.

        Raises:
            UserError: fewer answers are accepted than one optimizer step needs.
        """
        answers = self.query_teacher()
        self.report(answers.timing)
        rejected_by, counts = self.filter_answers(answers.pairs)
        rows = [
            {**without_instruction(row), "completion": answer.text, "teacher": self.teacher.name}
            for (row, answer), name in zip(answers.pairs, rejected_by, strict=True)
            if name is None
        ]
        self.require_one_step(counts)
        return rows, counts | answers.counts

    def questions(self) -> Sequence[Row]:
        """Rows whose prompts are put to the teacher."""
        return self.data.train[: self.num_questions]

    def query_teacher(self) -> TeacherAnswers:
        rows = [self.data.teacher_row(row) for row in self.questions()]
        questions = teacher_questions(rows, self.answers_per_question, self.teacher_seed)
        with TemporaryDirectory() as temporary:  # for a run without a record
            file = self.store or (self.files.answers if self.files else Path(temporary) / "answers.jsonl")
            with AnswerCache(file, "stage.store", self.run.check_for_stop) as cache:
                return query_teacher(self.teacher, questions, cache, self.run.check_for_stop, self.model_change)

    def filter_answers(self, pairs: list[tuple[Row, Answer]]) -> tuple[list[str | None], dict[str, int]]:
        """For each answer the filter that rejects it, or None; and the counts of the outcomes."""
        # Lengths are in the student's tokens: they decide whether it can learn the answer.
        context = context_length(self.model_source.load_config())
        answer_ids = [self.answer_ids({**row, "completion": answer.text}, context) for row, answer in pairs]
        truncated = [answer.finish_reason != "stop" for _, answer in pairs]
        learnable = [b for b, ids in enumerate(answer_ids) if ids]
        rejected_by: list[str | None] = ["unlearnable"] * len(pairs)
        names = self.filters.rejected_by(
            rows=[pairs[b][0] for b in learnable],
            completions=[pairs[b][1].text for b in learnable],
            completion_ids=[answer_ids[b] for b in learnable],
            truncated=[truncated[b] for b in learnable],
            verifier=self.data.verifier,
            max_completion_length=self.engine.max_completion_length,
        )
        for b, name in zip(learnable, names, strict=True):
            rejected_by[b] = name
        counts = self.filters.outcome_counts(truncated, rejected_by) | {"selected": rejected_by.count(None)}
        unlearnable = rejected_by.count("unlearnable")
        return rejected_by, counts | ({"rejected/unlearnable": unlearnable} if unlearnable else {})

    def answer_ids(self, row: Row, context: float) -> list[int]:
        """An answer's tokens; none where the student's template does not write it or its context does not hold it."""
        try:
            prompt, answer, _ = self.data.example(self.tokenizer, row)
        except UserError:
            return []
        return answer if len(prompt) + len(answer) <= context else []

    def require_one_step(self, counts: dict[str, int]) -> None:
        if counts["selected"] < self.plan.examples_per_step:
            raise UserError(
                f"{counts['selected']} teacher answers were accepted, fewer than one optimizer step needs",
                key="stage.num_questions",
                value=format_counts(counts),
                expected=f"at least stage.examples_per_step={self.plan.examples_per_step} accepted answers",
                hint="raise stage.num_questions, lower stage.examples_per_step, or drop a filter: ~stage.filters.X",
                code=DATA,
            )

    # ---- phase 2: SFT on them ----

    def on_train_start(self) -> None:
        if self.trainer.global_step == 0:  # a resumed run has the row already
            self.report({f"distill/{name}": float(count) for name, count in self.counts.items()})
