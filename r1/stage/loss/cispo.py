"""CISPO: REINFORCE with a clipped, detached importance weight, so that no token's gradient is cut off."""

from __future__ import annotations

import torch
from torch import Tensor

from r1.stage.loss.base import Clip
from r1.stage.loss.dapo import Dapo


class Cispo(Dapo):
    """-sg(min(r, 1 + clip_high)) A log pi, tokens weighed as in DAPO (MiniMax-M1 2025, eq. 4 and 5).

    There is no lower clip: ``clip_low`` is not used. Every ratio is bounded, so a dual clip would do nothing.
    """

    takes_dual_clip = False

    def per_token(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, clip: Clip
    ) -> tuple[Tensor, Tensor]:
        # Detached, the ratio is a weight on the gradient of log pi. The surrogate's clip would instead cut the whole
        # gradient of a token beyond the bound, among them rare tokens that matter for reflection.
        ratio = torch.exp(logps.detach() - old_logps)
        return -ratio.clamp(max=1 + clip.high) * advantages * logps, ratio > 1 + clip.high
