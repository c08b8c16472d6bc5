"""SAPO: a smooth gate in place of the clip (Gao et al. 2025, "Soft Adaptive Policy Optimization", arXiv:2511.20347)."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from r1.stage.loss.base import Clip
from r1.stage.loss.grpo import Grpo


class Sapo(Grpo):
    """-4 / tau sigmoid(tau (r - 1)) A, tokens weighed as in GRPO; ``clip_low`` and ``clip_high`` are not used.

    At r = 1 the gradient is that of r A; away from it, it fades by 4 s (1 - s), s the sigmoid. As in TRL and verl.

    Args:
        temperature_pos: tau where the advantage is positive.
        temperature_neg: tau elsewhere; the larger one fades sooner.
    """

    clips = takes_dual_clip = False

    def __init__(self, *, temperature_pos: Annotated[float, Gt(0)], temperature_neg: Annotated[float, Gt(0)]) -> None:
        self.temperature_pos, self.temperature_neg = temperature_pos, temperature_neg

    def per_token(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, clip: Clip
    ) -> tuple[Tensor, Tensor]:
        tau = torch.where(advantages > 0, self.temperature_pos, self.temperature_neg)
        gate = torch.sigmoid(tau * ((logps - old_logps).exp() - 1)) * 4 / tau
        return -gate * advantages, torch.zeros_like(mask)
