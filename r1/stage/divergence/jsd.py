"""Generalised Jensen-Shannon divergence: between forward and reverse KL, and bounded (GKD; Agarwal et al. 2024)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor


def jsd(teacher_logps: Tensor, logps: Tensor, *, beta: Annotated[float, Interval(gt=0, lt=1)]) -> tuple[Tensor, Tensor]:
    """beta KL(p||m) + (1 - beta) KL(q||m), m = beta p + (1 - beta) q (GKD eq. 1); slope (1 - beta) q (log q - log m).

    Divided by beta it becomes the forward KL as beta goes to 0, by 1 - beta the reverse KL as beta goes to 1: near
    either end gradients are that much smaller.
    """
    mixed = torch.logaddexp(teacher_logps + math.log(beta), logps + math.log1p(-beta))
    slopes = (1 - beta) * logps.exp() * (logps - mixed)
    return beta * teacher_logps.exp() * (teacher_logps - mixed) + slopes, slopes
