"""The clipped surrogate that the losses share, and what they may know of the whole optimizer step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepCounts:
    """Totals over all micro-batches and devices of one optimizer step.

    Attributes:
        num_tokens: completion tokens.
        num_sequences: completions.
        max_completion_length: the rollout's limit T_max, tokens.
    """

    num_tokens: int
    num_sequences: int
    max_completion_length: int


class Loss(Protocol):
    """One way to turn ratios and advantages into a loss; shapes (B, T), mask true at completion tokens."""

    def per_token(
        self,
        logps: Tensor,
        old_logps: Tensor,
        advantages: Tensor,
        mask: Tensor,
        clip_low: float,
        clip_high: float,
    ) -> tuple[Tensor, Tensor]:
        """Cost of each token, and whether its ratio was clipped. ``advantages`` is (B, 1)."""

    def weights(self, mask: Tensor, counts: StepCounts) -> Tensor:
        """Weight of each token; all weights of a step sum to at most 1."""


class ClippedLoss:
    """Token-level PPO surrogate, min(r A, clip(r, 1 - low, 1 + high) A) (DeepSeekMath eq. 3; DAPO eq. 8)."""

    def per_token(
        self,
        logps: Tensor,
        old_logps: Tensor,
        advantages: Tensor,
        mask: Tensor,
        clip_low: float,
        clip_high: float,
    ) -> tuple[Tensor, Tensor]:
        ratio = torch.exp(logps - old_logps)
        clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
        gain, clipped_gain = ratio * advantages, clipped * advantages
        return -torch.minimum(gain, clipped_gain), clipped_gain < gain
