"""Sequence-level distillation: ask a teacher, keep what the verifier accepts, learn it (DeepSeek-R1 sec. 2.4)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
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
from r1.stage.base import Optimization
from r1.stage.sft import Sft
from r1.teacher.base import Teacher


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
            self.data = dataclasses.replace(self.data, train=self.answers())

    def answers(self) -> list[Row]:
        """The kept answers as training rows: read back if this run already has them, asked for if not."""
        file = self.record.dir / "traces" / "traces.jsonl" if self.record else None
        if file and file.is_file():
            return jsonl.read(file)
        rows = self.ask()
        if len(rows) < self.plan.examples_per_step:
            raise UserError(
                f"only {len(rows)} teacher answers were kept, fewer than one optimizer step needs",
                where="stage.num_questions",
                given=self.num_questions,
                do="raise stage.num_questions or stage.answers_per_question, or lower stage.examples_per_step",
                code=DATA,
            )
        if file:
            write_traces(file, rows)
        return rows

    def ask(self) -> list[Row]:
        questions = self.data.train[: self.num_questions]
        answered = self.teacher.answer(questions, self.answers_per_question, self.seed)
        asked = [(row, answer) for row, group in zip(questions, answered, strict=True) for answer in group]
        finished = [(row, answer) for row, answer in asked if answer.finish_reason == "stop"]
        kept = [
            {**row, "completion": answer.text, "teacher": self.teacher.name}
            for row, answer in finished
            if self.keep == "all" or self.data.correct(answer.text, row)
        ]
        counts = {"asked": len(asked), "finished": len(finished), "kept": len(kept)}
        self.report({f"distill/{name}": float(count) for name, count in counts.items()})
        return kept


def write_traces(file: Path, rows: list[Row]) -> None:
    """The dataset that ``data=traces`` reads, with its card beside it; complete or not there at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(jsonl.dumps(row) for row in rows)
    card = {"fingerprint": hashlib.sha256(text.encode()).hexdigest(), "count": len(rows)}
    file.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    replace(file, text)
