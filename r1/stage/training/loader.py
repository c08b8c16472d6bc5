"""What Lightning iterates over: whole optimizer steps, made when they are asked for; and a validation in one piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1.stage.base import Stage


class StepLoader:
    """Lightning's view of the training data: ``num_micro_batches`` items per optimizer step, made when asked for.

    Its length is known, so that Lightning does not fetch one item ahead: the next rollouts must be made by the
    weights after the current update.
    """

    def __init__(self, stage: Stage, num_steps: int) -> None:
        self.stage, self.num_steps, self.step = stage, num_steps, 0

    def __len__(self) -> int:
        return self.num_steps * self.stage.plan.num_micro_batches

    def __iter__(self) -> Iterator[Any]:
        while self.step < self.num_steps:
            with self.stage.summon_full_params():  # nobody waits for another while rollouts are made
                batches = self.stage.micro_batches(self.step)
            self.step += 1  # before the last yield: a checkpoint is only ever written between two steps
            yield from batches

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "stage": self.stage.gather(self.stage.loader_state(self.step))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.stage.load_loader_state(state["stage"])


@dataclass(frozen=True)
class SingleBatchLoader:
    """A dataloader of one item (Lightning would take a plain list for several dataloaders)."""

    item: Any

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        yield self.item


@dataclass(frozen=True)
class Batches:
    """A dataloader of batches that are known in advance."""

    batches: Sequence[Any]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def rescale_progress(checkpoint: dict[str, Any], num_micro_batches: int) -> None:
    """Lightning counts micro-batches, of which there may be more or fewer in a step than when it was saved."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        for name, count in counts.items():
            counts[name] = count // checkpoint["num_micro_batches"] * num_micro_batches
