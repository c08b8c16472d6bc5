"""BNPO's normaliser: the mean over this device's completion tokens, then the mean over devices (as in TRL)."""

from __future__ import annotations

from torch import Tensor

from r1.stage.loss.base import ClippedLoss, StepCounts


class Bnpo(ClippedLoss):
    """On one device it is DAPO; on several, a device with few tokens weighs as much as one with many.

    Its gradient depends on the number of devices, by definition; that of every other loss does not.
    """

    def weights(self, mask: Tensor, counts: StepCounts) -> Tensor:
        # Each device's weights sum to 1 / num_devices: a mean of means, as a loss averaged per device would be.
        return mask / max(counts.device_tokens, 1) / counts.num_devices
