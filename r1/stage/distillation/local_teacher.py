"""The teacher as a distribution over next tokens: a local model that is only read, and must speak the same tokens."""

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
    """Holds the teacher outside of the LightningModule: no checkpoint holds it and no optimizer sees it.

    Raises:
        UserError: the teacher is no model in this process, or its tokenizer is not the student's; no weight has been
            loaded by then.
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
        check_same_tokens(tokenizer, teacher.tokenizer, teacher.name)
        self.teacher = teacher

    def on(self, device: torch.device) -> PreTrainedModel:
        """The model, on the student's device."""
        self.teacher.model.to(device)  # type: ignore[arg-type]  # transformers hides torch's signature
        return self.teacher.model


def check_same_tokens(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, teacher_path: str) -> None:
    """Two distributions over tokens can only be compared if every id is the same piece of text, split the same way.

    Raises:
        UserError: they are not; it names both, and the first id that differs.
    """
    ours, theirs = ({i: token for token, i in t.get_vocab().items()} for t in (student, teacher))
    different = sorted(i for i in ours.keys() | theirs.keys() if ours.get(i) != theirs.get(i))
    if different:
        i = different[0]
        how = f"{len(different)} ids differ, the first is {i}: {ours.get(i)!r} and {theirs.get(i)!r}"
    elif student(SPLIT_PROBE).input_ids != teacher(SPLIT_PROBE).input_ids:
        how = f"they split {SPLIT_PROBE!r} differently"
    else:
        return
    raise UserError(
        f"student and teacher have different tokenizers, so their distributions cannot be compared: {how}",
        key="teacher.path",
        value=teacher_path,
        expected=f"a model with the tokenizer of {student.name_or_path or 'model.path'}",
        hint="take a teacher of the student's family, or stage=distill, which needs the teacher's answers only",
        code=MODEL,
    )
