"""Dither for products in bfloat16: small updates of float32 weights take effect from the first step.

A published model's weights are bfloat16 numbers. In float32, each lies in the middle of the interval that bfloat16
rounds to it, and products see none of its updates before they add up to half the interval. Spread over their intervals,
the weights round as before, and a share of them proportional to the update moves at every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def dither(model: PreTrainedModel, seed: int) -> None:
    """Add uniform noise to the trainable float32 matrices that hold bfloat16 numbers; they still round to the same."""
    generator = torch.Generator().manual_seed(seed)
    for weight in [p for p in model.parameters() if p.requires_grad and p.ndim >= 2 and p.dtype == torch.float32]:
        rounded = weight.to(torch.bfloat16)
        if not torch.equal(rounded.float(), weight):
            continue
        above, below = (
            torch.nextafter(rounded, torch.full_like(rounded, end)).float() for end in (torch.inf, -torch.inf)
        )
        noise = (torch.rand(weight.shape, generator=generator) - 0.5) * 0.999  # of the distance to the next number
        step = torch.where(noise > 0, above - weight, weight - below)
        weight.add_(torch.where(weight == 0, 0, noise * step))  # a zero stays: its neighbours are subnormal
