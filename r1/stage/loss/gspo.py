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
        log_ratio = ((logps - old_logps) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        # Every token carries its completion's ratio, and gradient flows through the mean, so a completion is clipped as
        # one. GSPO-token's stop-gradient (sec. 4.3) has the same gradient while the advantage is one per completion.
        log_ratios = log_ratio.expand_as(logps)
        return super().per_token(log_ratios, torch.zeros_like(log_ratios), advantages, mask, clip)
