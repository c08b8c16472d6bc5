"""Sequence-level distillation: ask a teacher, keep what the filters accept, learn it (DeepSeek-R1 sec. 2.4)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, ClassVar, Unpack

from annotated_types import Ge

from r1.core import jsonl
from r1.core.errors import DATA, UserError
from r1.data.base import Row
from r1.stage.base import StageParts
from r1.stage.distillation.answer_cache import AnswerCache
from r1.stage.distillation.filters import Filters
from r1.stage.distillation.teacher_queries import ModelChange, TeacherAnswers, query_teacher
from r1.stage.distillation.traces import write_traces
from r1.stage.sft import Sft, SftOptions
from r1.teacher.base import Answer, Teacher, questions


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
        filters: which answers are kept (nested group ``stage/filters``).
        num_questions: training questions put to the teacher, the first of the split.
        answers_per_question: n answers each.
        store: file that the answers go to, and are taken from where it has them; null: in the run's record.
        teacher_seed: of the answers; null: the run's.
        model_change: ``stop`` or ``accept``, once the teacher reports another model than in earlier answers.
    """

    required_columns: ClassVar[tuple[str, ...]] = ()  # the teacher writes the completions

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
            AnswerCache(self.store, "stage.store", self.run.check_for_stop)  # a file that is no store is found now

    def setup(self, stage: str) -> None:
        if stage == "fit":
            with self.summon_full_params():
                rows, self.counts = self.run.ranks.broadcast_from_rank_zero(self.kept)
            self.data = dataclasses.replace(self.data, train=rows)

    def on_train_start(self) -> None:
        if self.trainer.global_step == 0:  # a resumed run has the row already
            self.report({f"distill/{name}": float(count) for name, count in self.counts.items()})

    def kept(self) -> tuple[list[Row], dict[str, int]]:
        """The kept answers as training rows, and how many there were on the way: read back where the run has them."""
        file = self.run.record.dir / "traces" / "traces.jsonl" if self.run.record else None
        if file and file.is_file():
            return jsonl.read_rows(file), json.loads(file.with_suffix(".json").read_bytes())["counts"]
        asked = self.ask(file.with_name("answers.jsonl") if file else None)
        self.report(asked.timing)
        rejected_by = self.rejected_by(asked.pairs)
        kept = [pair for pair, name in zip(asked.pairs, rejected_by, strict=True) if name is None]
        rows = [{**row, "completion": answer.text, "teacher": self.teacher.name} for row, answer in kept]
        counts = {
            "asked": len(asked.pairs),
            "finished": sum(answer.finish_reason == "stop" for _, answer in asked.pairs),
            **{f"rejected/{name}": rejected_by.count(name) for name in self.filters.names},
            "kept": len(rows),
        }
        if len(rows) < self.plan.examples_per_step:
            raise UserError(
                f"{len(rows)} teacher answers were kept, fewer than one optimizer step needs",
                key="stage.num_questions",
                value=", ".join(f"{name} {count}" for name, count in counts.items()),
                expected=f"at least stage.examples_per_step={self.plan.examples_per_step} kept answers",
                hint="raise stage.num_questions, lower stage.examples_per_step, or drop a filter: ~stage.filters.X",
                code=DATA,
            )
        counts |= asked.counts
        if file:
            write_traces(file, rows, counts)
        return rows, counts

    def questions(self) -> list[Row]:
        """What the teacher is asked."""
        return self.data.train[: self.num_questions]

    def rejected_by(self, pairs: list[tuple[Row, Answer]]) -> list[str | None]:
        """For each answer the filter that rejects it, or None; lengths are those in the student's tokens."""
        rows = [{**row, "completion": answer.text} for row, answer in pairs]
        return self.filters.rejected_by(
            rows=[row for row, _ in pairs],
            completions=[answer.text for _, answer in pairs],
            completion_ids=[self.data.completion_ids(self.tokenizer, row) for row in rows],
            truncated=[answer.finish_reason != "stop" for _, answer in pairs],
            verifier=self.data.verifier,
            max_completion_length=self.engine.max_completion_length,
        )

    def ask(self, file: Path | None) -> TeacherAnswers:
        """Every answer with its question; ``file`` keeps the answers where no ``store`` was named."""
        wanted = questions(self.questions(), self.answers_per_question, self.teacher_seed)
        with TemporaryDirectory() as nowhere:  # without a record nothing is kept
            file = self.store or file or Path(nowhere) / "answers.jsonl"
            with AnswerCache(file, "stage.store", self.run.check_for_stop) as store:
                return query_teacher(self.teacher, wanted, store, self.run.check_for_stop, self.model_change)
