"""Dr. GRPO: the sum over tokens divided by a constant (Liu et al. 2025, "Understanding R1-Zero-Like Training")."""

from __future__ import annotations

from torch import Tensor

from r1.stage.loss.base import ClippedLoss, StepCounts


class DrGrpo(ClippedLoss):
    """No division by the completion's own length, which would favour long wrong answers."""

    def weights(self, mask: Tensor, counts: StepCounts) -> Tensor:
        return mask / (max(counts.num_sequences, 1) * counts.max_completion_length)
