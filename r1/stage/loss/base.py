"""The interface of losses, the totals of an optimizer step that weigh them, and the clipped surrogate they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepCounts:
    """Totals of one optimizer step over all micro-batches; over all devices unless said otherwise.

    Attributes:
        num_tokens: completion tokens of a step, the mean over the minibatches of a rollout batch.
        num_sequences: completions of a step, the same mean.
        max_completion_length: the rollout's limit T_max, tokens.
        device_tokens: counted tokens of this step on this device.
        num_devices: number of devices.
        active_tokens: tokens of this step that go through the model; fewer than are counted where some are masked.
    """

    num_tokens: float
    num_sequences: float
    max_completion_length: int
    device_tokens: int
    num_devices: int
    active_tokens: int


@dataclass(frozen=True)
class Clip:
    """Bounds of the ratio: [1 - low, 1 + high], and ``dual``, which bounds it where the advantage is negative."""

    low: float
    high: float
    dual: float | None = None


class Loss(Protocol):
    """One way to turn ratios and advantages into a loss; shapes (B, T), mask true at completion tokens."""

    def per_token(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, clip: Clip
    ) -> tuple[Tensor, Tensor]:
        """Cost of each token, and whether its ratio was clipped. ``advantages`` is (B, 1)."""

    def weights(self, mask: Tensor, counts: StepCounts) -> Tensor:
        """Weight of each token; their sum over a step is at most 1, on average over a rollout batch's steps."""


class ClippedLoss:
    """Token-level PPO surrogate, min(r A, clip(r, 1 - low, 1 + high) A) (DeepSeekMath eq. 3; DAPO eq. 8).

    Options derive from it and add ``weights``. With a dual clip c, a negative advantage counts at most c times (Ye et
    al. 2020, eq. 5).

    Attributes:
        clips: False: nothing is clipped, and ``Clip.low`` and ``Clip.high`` have no effect.
        takes_dual_clip: False: ``Clip.dual`` has no effect, so a config that sets it is refused.
    """

    clips: ClassVar[bool] = True
    takes_dual_clip: ClassVar[bool] = True

    def per_token(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, clip: Clip
    ) -> tuple[Tensor, Tensor]:
        ratio = torch.exp(logps - old_logps)
        clipped = ratio.clamp(1 - clip.low, 1 + clip.high)
        bounded = ratio if clip.dual is None else torch.where(advantages < 0, ratio.clamp(max=clip.dual), ratio)
        # The minimum clips only in the direction that the advantage rewards: a token that has moved the wrong way keeps
        # its gradient, so the update can bring it back.
        gain, clipped_gain = bounded * advantages, clipped * advantages
        return -torch.minimum(gain, clipped_gain), (clipped_gain < gain) | (bounded < ratio)
