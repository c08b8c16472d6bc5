"""A teacher whose next-token distribution is read: a frozen model in this process, with the student's tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1.core.errors import MODEL, UserError
from r1.model.loading import SPLIT_PROBE
from r1.teacher.transformers import Transformers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from r1.teacher.base import Teacher


class LocalTeacher:
    """Wraps the teacher so that it is no submodule of the stage: not in checkpoints, not in the optimizer.

    Raises:
        UserError: the teacher is not a local model, or its tokenizer is not the student's. No weights are loaded yet.
    """

    def __init__(self, teacher: Teacher, tokenizer: PreTrainedTokenizerBase) -> None:
        if not isinstance(teacher, Transformers):
            raise UserError(
                "this stage reads the teacher's log-probability of every token, which only a model in this process has",
                key="teacher",
                value=teacher.name,
                expected="teacher=transformers",
                hint="teacher=transformers teacher.path=MODEL, or stage=distill, which needs only its answers",
            )
        if teacher.system:
            message, hint = "this stage reads the teacher's log-probs behind the student's own prompt", "set it to null"
            raise UserError(message, key="teacher.system", value=teacher.system, hint=hint)
        check_same_tokens(tokenizer, teacher.tokenizer, teacher.name)
        self.teacher = teacher

    def to(self, device: torch.device) -> PreTrainedModel:
        """The model, moved to ``device``."""
        self.teacher.model.to(device)  # type: ignore[arg-type]  # transformers hides torch's signature
        return self.teacher.model


def check_same_tokens(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, teacher_path: str) -> None:
    """Two distributions over tokens can only be compared if every id is the same text, and texts are split alike.

    Raises:
        UserError: the tokenizers differ; the message has the first different id.
    """
    student_tokens, teacher_tokens = ({i: token for token, i in t.get_vocab().items()} for t in (student, teacher))
    ids = student_tokens.keys() | teacher_tokens.keys()
    different = sorted(i for i in ids if student_tokens.get(i) != teacher_tokens.get(i))
    if different:
        i = different[0]
        tokens = f"{student_tokens.get(i)!r} and {teacher_tokens.get(i)!r}"
        difference = f"{len(different)} ids differ, the first is {i}: {tokens}"
    elif student(SPLIT_PROBE).input_ids != teacher(SPLIT_PROBE).input_ids:
        difference = f"they split {SPLIT_PROBE!r} differently"
    else:
        return
    raise UserError(
        f"student and teacher have different tokenizers, so their distributions cannot be compared: {difference}",
        key="teacher.path",
        value=teacher_path,
        expected=f"a model with the tokenizer of {student.name_or_path or 'model.path'}",
        hint="take a teacher of the student's family, or stage=distill, which needs the teacher's answers only",
        code=MODEL,
    )
