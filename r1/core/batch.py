"""The batch arithmetic: the sizes that are set, those that follow from them, and one sentence that explains them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from r1.core.errors import UserError

T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Consecutive parts of ``size`` items; the last one may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step is split into micro-batches.

    Args:
        examples_per_step: P, examples (prompts) per optimizer step over all devices.
        group_size: G, sequences per example (1 where the stage has no groups).
        micro_batch_size: most sequences per forward/backward on one device; cannot change the result. None: as many as
            fit into ``micro_batch_tokens``.
        num_devices: devices over all nodes.
        unit: the plural noun for what goes through the model, as printed.
        steps_per_rollout: S, minibatches (optimizer steps) of one rollout batch.
        micro_batch_tokens: most tokens per forward/backward on one device; cannot change the result.

    Raises:
        UserError: the examples do not divide over the devices.
    """

    examples_per_step: int
    group_size: int
    micro_batch_size: int | None
    num_devices: int
    unit: str = "sequences"
    steps_per_rollout: int = 1
    micro_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.examples_per_step % self.num_devices:
            raise UserError(
                "the examples of a step do not divide over the devices",
                key="stage.examples_per_step",
                value=self.examples_per_step,
                expected=f"multiples of {self.num_devices} (trainer.devices x trainer.num_nodes)",
            )

    @property
    def sequences_per_step(self) -> int:
        return self.examples_per_step * self.group_size

    @property
    def sequences_per_device(self) -> int:
        return self.sequences_per_step // self.num_devices

    @property
    def num_micro_batches(self) -> int:
        """Forward/backward passes per step on one device, at most: Lightning's ``accumulate_grad_batches``."""
        return -(-self.sequences_per_device // (self.micro_batch_size or 1))

    def __str__(self) -> str:
        devices = f"{self.num_devices} device{'s' if self.num_devices > 1 else ''}"
        product = f"{self.examples_per_step} prompts x {self.group_size} completions = " if self.group_size > 1 else ""
        arithmetic = f"{product}{self.sequences_per_step} {self.unit} per step = {self._micro_batches} on {devices}"
        return arithmetic if self.steps_per_rollout == 1 else f"{arithmetic}; {self._rollout_batch}"

    @property
    def _micro_batches(self) -> str:
        if self.micro_batch_size is None:
            return f"micro-batches of at most {self.micro_batch_tokens:,} tokens"
        plural = "es" if self.num_micro_batches > 1 else ""
        size = min(self.micro_batch_size, self.sequences_per_device)
        at_most = "at most " if self.sequences_per_device % size else ""
        return f"{self.num_micro_batches} micro-batch{plural} of {at_most}{size}"

    @property
    def _rollout_batch(self) -> str:
        steps, prompts = self.steps_per_rollout, self.steps_per_rollout * self.examples_per_step
        return (
            f"a rollout batch of {prompts} prompts is {steps} such minibatches, "
            "whole groups in the data's order (a permutation keyed by the seed)"
        )
