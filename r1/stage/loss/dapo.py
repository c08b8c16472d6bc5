"""DAPO: the mean over all completion tokens of the step (Yu et al. 2025, eq. 8)."""

from __future__ import annotations

from torch import Tensor

from r1.stage.loss.base import ClippedLoss, StepCounts


class Dapo(ClippedLoss):
    """Every token weighs the same, in a short or a long completion."""

    def weights(self, mask: Tensor, counts: StepCounts) -> Tensor:
        # The step's count, not the micro-batch's: weights of all micro-batches on all devices sum to at most 1.
        return mask / max(counts.num_tokens, 1)
