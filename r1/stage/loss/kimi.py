"""Kimi's policy mirror descent: a squared loss that regresses a completion's log-ratio on its advantage."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from r1.stage.loss.base import Clip
from r1.stage.loss.grpo import Grpo


class Kimi(Grpo):
    """-(A rho - tau / 2 rho^2) per completion, rho = sum_t log pi / pi_old; the mean over completions.

    It is (A - tau rho)^2 / (2 tau) without its constant A^2 / (2 tau). Kimi k1.5 (arXiv:2501.12599, sec. 2.3.2) derives
    that square with A = r - tau log Z, replaces tau log Z by the mean reward of the group (``stage/advantage=center``),
    and updates by the gradient of this loss: (r - mean) grad log pi - tau / 2 grad rho^2. Kimi K2 (arXiv:2507.20534,
    sec. 3.2) has the square itself, which is 2 tau times this loss. rho is a sum: the gradient grows with the length.

    Nothing is clipped: tau alone bounds the step, and with one step per rollout batch rho is 0 and tau does nothing.

    Args:
        tau: weight of the squared log-ratio. Neither paper states its value; 0.01 is that of Xu et al. 2026
            (arXiv:2602.05933, which names this algorithm PMD-mean).
    """

    clips = takes_dual_clip = False

    def __init__(self, *, tau: Annotated[float, Gt(0)]) -> None:
        self.tau = tau

    def per_token(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, clip: Clip
    ) -> tuple[Tensor, Tensor]:
        rho = ((logps - old_logps) * mask).sum(1, keepdim=True)
        # Every token carries its completion's cost; GRPO's weights then make the mean over completions.
        cost = self.tau / 2 * rho.square() - advantages * rho
        return cost.expand_as(logps), torch.zeros_like(mask)
