"""BNPO's normaliser: the mean over this device's completion tokens, then the mean over devices (as in TRL)."""

from __future__ import annotations

from torch import Tensor

from r1.stage.loss.base import ClippedLoss, StepCounts


class Bnpo(ClippedLoss):
    """On one device it is DAPO; on several, a device with few tokens weighs as much as one with many.

    The one loss whose gradient depends on the number of devices, by definition.
    """

    def weights(self, mask: Tensor, counts: StepCounts) -> Tensor:
        return mask / max(counts.device_tokens, 1) / counts.num_devices
