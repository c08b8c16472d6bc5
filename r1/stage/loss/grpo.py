"""GRPO: the mean over a completion's tokens, then the mean over completions (DeepSeekMath eq. 3)."""

from __future__ import annotations

from torch import Tensor

from r1.stage.loss.base import ClippedLoss, StepCounts


class Grpo(ClippedLoss):
    """Every completion weighs the same, so a token of a long one weighs less."""

    def weights(self, mask: Tensor, counts: StepCounts) -> Tensor:
        return mask / mask.sum(1, keepdim=True).clamp(min=1) / max(counts.num_sequences, 1)
