"""What the advantages share: statistics of a group in which a reward may be missing."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Advantage(Protocol):
    """``f(rewards)``: (P, G) float rewards, NaN where a completion could not be scored, to (P, G) finite advantages."""

    def __call__(self, rewards: Tensor) -> Tensor: ...


def centred(rewards: Tensor) -> Tensor:
    """Reward minus its group's mean; exactly 0 where all rewards are equal, and where a reward is missing."""
    mean = torch.nanmean(rewards, dim=1, keepdim=True)
    return torch.where(has_signal(rewards), (rewards - mean).nan_to_num(0.0), 0.0)


def group_std(rewards: Tensor) -> Tensor:
    """(P, 1) sample standard deviation (n - 1) over the rewards that are there."""
    count = (~rewards.isnan()).sum(1, keepdim=True)
    return (centred(rewards).square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()


def has_signal(rewards: Tensor) -> Tensor:
    """(P, 1) whether a group holds two different rewards."""
    high = rewards.nan_to_num(-torch.inf).amax(1, keepdim=True)
    low = rewards.nan_to_num(torch.inf).amin(1, keepdim=True)
    return high > low
