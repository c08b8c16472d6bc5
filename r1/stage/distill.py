"""Sequence-level distillation: ask a teacher, keep what the verifier accepts, learn it (DeepSeek-R1 sec. 2.4)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, Unpack

from annotated_types import Ge

from r1 import jsonl
from r1.data.base import Data, Row
from r1.errors import DATA, UserError
from r1.evaluate import Validation
from r1.model import Model
from r1.record import replace
from r1.reward.base import Rewards
from r1.rollout.base import Engine
from r1.stage.optimization import Optimization
from r1.stage.sft import Sft
from r1.teacher.base import Answer, Teacher

QUESTIONS_AT_ONCE = 64  # what a crash can cost at most


class Distill(Sft):
    """SFT on a teacher's answers to the training questions; the answers are part of the run's record.

    Args:
        num_questions: training questions put to the teacher, the first of the split.
        answers_per_question: n answers each.
        keep: ``correct`` keeps what the dataset's verifier accepts, ``all`` keeps everything that was finished.
    """

    needs_columns = ()  # the teacher writes the completions

    def __init__(
        self,
        model: Model,
        data: Data,
        rewards: Rewards,
        engine: Engine,
        validation: Validation,
        teacher: Teacher,
        seed: int,
        num_devices: int,
        *,
        num_questions: Annotated[int, Ge(1)],
        answers_per_question: Annotated[int, Ge(1)],
        keep: Literal["correct", "all"],
        loss_on_prompt: bool,
        **optimization: Unpack[Optimization],
    ) -> None:
        super().__init__(
            model,
            data,
            rewards,
            engine,
            validation,
            seed,
            num_devices,
            loss_on_prompt=loss_on_prompt,
            **optimization,
        )
        self.teacher, self.keep = teacher, keep
        self.num_questions, self.answers_per_question = num_questions, answers_per_question

    def setup(self, stage: str) -> None:
        if stage == "fit":
            rows, self.counts = self.kept()
            self.data = dataclasses.replace(self.data, train=rows)

    def on_train_start(self) -> None:
        if self.trainer.global_step == 0:  # a resumed run has the row already
            self.report({f"distill/{name}": float(count) for name, count in self.counts.items()})

    def kept(self) -> tuple[list[Row], dict[str, int]]:
        """The kept answers as training rows, and how many there were on the way: read back where the run has them."""
        file = self.record.dir / "traces" / "traces.jsonl" if self.record else None
        if file and file.is_file():
            return jsonl.read(file), json.loads(file.with_suffix(".json").read_bytes())["counts"]
        asked = self.ask(file.with_name("answers.jsonl") if file else None)
        finished = [(row, answer) for row, answer in asked if answer.finish_reason == "stop"]
        right = finished
        if self.keep == "correct":
            verdicts = self.data.all_correct([answer.text for _, answer in finished], [row for row, _ in finished])
            right = [asked for asked, correct in zip(finished, verdicts, strict=True) if correct]
        rows = [{**row, "completion": answer.text, "teacher": self.teacher.name} for row, answer in right]
        counts = {"asked": len(asked), "finished": len(finished), "kept": len(rows)}
        if len(rows) < self.plan.examples_per_step:
            raise UserError(
                f"{len(rows)} teacher answers were kept, fewer than one optimizer step needs",
                where="stage.num_questions",
                given=", ".join(f"{name} {count}" for name, count in counts.items()),
                allowed=f"at least stage.examples_per_step={self.plan.examples_per_step} kept answers",
                do="raise stage.num_questions or stage.answers_per_question, or lower stage.examples_per_step",
                code=DATA,
            )
        if file:
            write_traces(file, rows, counts)
        return rows, counts

    def questions(self) -> list[Row]:
        """What the teacher is asked."""
        return self.data.train[: self.num_questions]

    def ask(self, journal: Path | None) -> list[tuple[Row, Answer]]:
        """Every answer with its question. ``journal`` holds those that were given; none is asked for twice."""
        questions = self.questions()
        given = [[Answer(**a) for a in line["answers"]] for line in (jsonl.mended(journal) if journal else [])]
        for start in range(len(given), len(questions), QUESTIONS_AT_ONCE):
            rows = questions[start : start + QUESTIONS_AT_ONCE]
            with self.at_once():
                given += self.teacher.answer(rows, self.answers_per_question, self.seed)
            if journal:
                lines = zip(rows, given[start:], strict=True)
                jsonl.append(
                    journal,
                    [{"prompt": row["prompt"], "answers": [asdict(a) for a in group]} for row, group in lines],
                    sync=True,
                )
        return [(row, answer) for row, group in zip(questions, given, strict=True) for answer in group]


def write_traces(file: Path, rows: list[Row], counts: dict[str, int]) -> None:
    """The dataset that ``data=traces`` reads, with its card beside it; complete or not there at all."""
    text = "".join(jsonl.dumps(row) for row in rows)
    card = {"fingerprint": hashlib.sha256(text.encode()).hexdigest(), "count": len(rows), "counts": counts}
    replace(file.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    replace(file, text)
