"""Logit-level distillation: minimise the divergence of the student's next-token distribution from the teacher's.

The contexts are the dataset's completions: a teacher's answers (data=traces), or any others (Hinton et al. 2015;
word-level distillation of Kim and Rush 2016).
"""

from __future__ import annotations

from typing import Annotated, Unpack

from annotated_types import Gt, Interval
from torch import Tensor

from r1.model.fused_divergence import Divergence
from r1.stage.base import StageParts
from r1.stage.distillation.local_teacher import LocalTeacher
from r1.stage.sft import Sft, SftBatch, SftOptions
from r1.teacher.base import Teacher


class DistillLogits(Sft):
    """(1 - c) tau^2 D(teacher, student) + c cross-entropy, per target token, the mean taken over the whole step.

    Args:
        divergence: D (nested group ``stage/divergence``), of both distributions at temperature tau.
        temperature: tau, divides the logits of both.
        cross_entropy: c, the share of the cross-entropy on the completion's tokens, at temperature 1.
    """

    teacher: LocalTeacher

    def __init__(
        self,
        parts: StageParts,
        teacher: Teacher,
        *,
        divergence: Divergence,
        temperature: Annotated[float, Gt(0)],
        cross_entropy: Annotated[float, Interval(ge=0, lt=1)],
        **sft: Unpack[SftOptions],
    ) -> None:
        super().__init__(parts, **sft)
        self.teacher = LocalTeacher(teacher, self.tokenizer)
        self.divergence, self.tau, self.cross_entropy = divergence, temperature, cross_entropy

    def training_step(self, batch: SftBatch, batch_idx: int) -> Tensor:
        teacher = self.teacher.to(self.device)
        per_token, logps = self.forward_pass.divergence_from_teacher(
            self.policy, teacher, batch, self.tau, self.divergence, want_logps=self.cross_entropy > 0
        )
        divergence = per_token.sum() / batch.step_tokens
        self.step_metrics.add({"train/divergence": divergence.detach(), "train/num_tokens": batch.num_tokens})
        # Dividing the logits of both by tau scales the gradient by about 1 / tau^2 (Hinton et al. 2015, sec. 2); the
        # factor tau^2 undoes it, so c and the learning rate mean the same at every temperature.
        loss = (1 - self.cross_entropy) * self.tau**2 * divergence
        if logps is not None:
            loss = loss - self.cross_entropy * logps.sum() / batch.step_tokens
        self.step_metrics.add({"train/loss": loss.detach()})
        return self.scaled_loss(loss)
