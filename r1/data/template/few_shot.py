"""Solved examples before the question: for base models, which continue a pattern."""

from __future__ import annotations

from typing import Annotated

from annotated_types import MinLen

from r1.core.errors import UserError
from r1.data.template.r1_zero import R1Zero


class FewShot(R1Zero):
    """``Question: ...`` and ``Answer: ...`` of each example, then of the question.

    A model continues with a next question: ``val.sampling.stop`` ends a completion there.

    Args:
        shots: question -> solution, in the form that the verifier reads.
        prefill: what every completion starts with; prompt to the model, part of the completion to rewards.

    Raises:
        UserError: an example has the place of the question in it.
    """

    def __init__(self, *, shots: Annotated[dict[str, str], MinLen(1)], prefill: str) -> None:
        examples = [f"Question: {question}\nAnswer: {solution}\n\n" for question, solution in shots.items()]
        if any("{prompt}" in example for example in examples):
            raise UserError("an example has {prompt} in it", key=".shots", value=shots, hint="write it in another way")
        super().__init__(text="".join(examples) + "Question: {prompt}\nAnswer:", prefill=prefill)
