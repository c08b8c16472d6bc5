"""The interface of advantages, and statistics of groups in which a reward may be missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any, Generic, ParamSpec, Protocol

import torch
from torch import Tensor

P = ParamSpec("P")


class Advantage(Protocol):
    """``f(rewards)``: (P, G) float rewards, NaN where a completion could not be scored, to (P, G) finite advantages.

    Any function of this form will do. One with requirements declares them with the decorator ``advantage_function``.
    """

    def __call__(self, *rewards: Tensor) -> Tensor: ...


class AdvantageFunction(Generic[P]):
    """A function with its requirements; see ``advantage_function``."""

    __name__: str

    def __init__(self, function: Callable[P, Tensor], min_group_size: int, per_term: bool, per_minibatch: bool) -> None:
        self.function, self.min_group_size = function, min_group_size
        self.per_term, self.per_minibatch = per_term, per_minibatch
        update_wrapper(self, function)  # its name, module and signature are those of the option

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return self.function(*args, **kwargs)


def advantage_function(
    *, min_group_size: int, per_term: bool = False, per_minibatch: bool = False
) -> Callable[[Callable[P, Tensor]], AdvantageFunction[P]]:
    """Decorator that declares the requirements of an advantage.

    Args:
        min_group_size: completions that a group needs for a comparison; checked against ``stage.group_size``.
        per_term: the function takes (K, P, G) reward terms and their (K,) weights instead of the weighted sum.
        per_minibatch: the function takes the groups of one minibatch instead of those of the rollout batch.
    """
    return lambda function: AdvantageFunction(function, min_group_size, per_term, per_minibatch)


def compute_advantages(advantage: Advantage, rewards: Tensor, terms: Tensor, weights: Tensor) -> Tensor:
    """(P, G) advantages.

    Args:
        advantage: a function, or a partial of one with its knobs.
        rewards: (P, G) weighted sums of the terms.
        terms: (K, P, G).
        weights: (K,).
    """
    function = _declared(advantage)
    return advantage(terms, weights) if function and function.per_term else advantage(rewards)


def is_per_minibatch(advantage: Advantage) -> bool:
    """Whether it is computed minibatch by minibatch, instead of once over the rollout batch."""
    function = _declared(advantage)
    return function is not None and function.per_minibatch


def _declared(advantage: Advantage) -> AdvantageFunction[Any] | None:
    """The function with its requirements; None for one that declares none."""
    function = advantage.func if isinstance(advantage, partial) else advantage
    return function if isinstance(function, AdvantageFunction) else None


def expected_frac_zero_std(solved: float, group_size: int) -> float:
    """Share of groups without signal where each completion is right with probability p: p^G + (1 - p)^G."""
    return solved**group_size + (1 - solved) ** group_size


def center_rewards(rewards: Tensor) -> Tensor:
    """Reward minus its group's mean; exactly 0 where all rewards are equal, and where a reward is missing."""
    mean = torch.nanmean(rewards, dim=1, keepdim=True)
    return torch.where(has_signal(rewards), (rewards - mean).nan_to_num(0.0), 0.0)


def group_std(rewards: Tensor) -> Tensor:
    """(P, 1) sample standard deviation (n - 1) of each group, over the rewards that are not missing."""
    count = (~rewards.isnan()).sum(1, keepdim=True)
    return (center_rewards(rewards).square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()


def step_std(centered: Tensor, missing: Tensor) -> Tensor:
    """Scalar: the sample standard deviation (n - 1), over a whole step, of values whose mean is 0.

    Args:
        centered: (P, G), 0 where the reward is missing.
        missing: (P, G) flags; such values are not counted in n.
    """
    count = (~missing).sum()
    return (centered.square().sum() / (count - 1).clamp(min=1)).sqrt()


def has_signal(rewards: Tensor) -> Tensor:
    """(P, 1) whether a group holds two different rewards."""
    high = rewards.nan_to_num(-torch.inf).amax(1, keepdim=True)
    low = rewards.nan_to_num(torch.inf).amin(1, keepdim=True)
    return high > low
