"""What the advantages share: statistics of a group in which a reward may be missing."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor


class Advantage(Protocol):
    """``f(rewards)``: (P, G) float rewards, NaN where a completion could not be scored, to (P, G) finite advantages.

    A function with the attribute ``per_term`` takes (K, P, G) terms and their (K,) weights instead of their sum.
    ``min_group_size`` says how many completions it needs to compare.
    """

    def __call__(self, *rewards: Tensor) -> Tensor: ...


def compute_advantages(advantage: Advantage, rewards: Tensor, terms: Tensor, weights: Tensor) -> Tensor:
    """(P, G) advantages, from what the function asks for."""
    inner = advantage.func if isinstance(advantage, partial) else advantage
    return advantage(terms, weights) if getattr(inner, "per_term", False) else advantage(rewards)


def expected_frac_zero_std(solved: float, group_size: int) -> float:
    """Share of groups without signal where each completion is right with probability p: p^G + (1 - p)^G."""
    return solved**group_size + (1 - solved) ** group_size


def center_rewards(rewards: Tensor) -> Tensor:
    """Reward minus its group's mean; exactly 0 where all rewards are equal, and where a reward is missing."""
    mean = torch.nanmean(rewards, dim=1, keepdim=True)
    return torch.where(has_signal(rewards), (rewards - mean).nan_to_num(0.0), 0.0)


def group_std(rewards: Tensor) -> Tensor:
    """(P, 1) sample standard deviation (n - 1) over the rewards that are there."""
    count = (~rewards.isnan()).sum(1, keepdim=True)
    return (center_rewards(rewards).square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()


def has_signal(rewards: Tensor) -> Tensor:
    """(P, 1) whether a group holds two different rewards."""
    high = rewards.nan_to_num(-torch.inf).amax(1, keepdim=True)
    low = rewards.nan_to_num(torch.inf).amin(1, keepdim=True)
    return high > low
