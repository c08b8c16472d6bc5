"""GSPO: one ratio per completion, the geometric mean of its tokens' ratios (Zheng et al. 2025, eq. 5 and 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from r1.stage.loss.base import Clip
from r1.stage.loss.grpo import Grpo


class Gspo(Grpo):
    """The clipped surrogate of sequence ratios, tokens weighed as in GRPO; clip_low and clip_high are of order 1e-4."""

    def per_token(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, clip: Clip
    ) -> tuple[Tensor, Tensor]:
        gap = ((logps - old_logps) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        whole = gap.expand_as(logps)  # every token carries its completion's log-ratio
        return super().per_token(whole, torch.zeros_like(whole), advantages, mask, clip)
