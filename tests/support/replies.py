"""A teacher's replies, in the order of the questions."""

from __future__ import annotations

from typing import Any

from r1.data.base import Row
from r1.rollout.base import SamplingChanges, no_op
from r1.teacher.base import Answer, Question, Reply, Teacher, questions

# the knobs of teacher=openai that send nothing
NO_KNOBS: dict[str, Any] = dict.fromkeys((*SamplingChanges.__annotations__, "system", "extra_body"))


def replies(teacher: Teacher, wanted: list[Question]) -> list[Reply]:
    """One reply to each question; every question gets exactly one."""
    received = [reply for batch in teacher.answer(wanted, no_op) for reply in batch]
    order = [next(i for i, question in enumerate(wanted) if question is reply.question) for reply in received]
    assert sorted(order) == list(range(len(wanted)))
    return [reply for _, reply in sorted(zip(order, received, strict=True), key=lambda pair: pair[0])]


def ask_all(teacher: Teacher, rows: list[Row], num_samples: int, seed: int) -> list[list[Answer]]:
    """``num_samples`` answers to each row: outer list rows, inner list samples."""
    flat = replies(teacher, questions(rows, num_samples, seed))
    groups = [flat[i * num_samples : (i + 1) * num_samples] for i in range(len(rows))]
    return [[reply.answer for reply in group if reply.answer] for group in groups]
