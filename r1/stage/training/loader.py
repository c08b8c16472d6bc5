"""The dataloaders that Lightning iterates over: optimizer steps built on demand, and batches known in advance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from r1.core.batch import BatchPlan
from r1.stage.runtime.run_context import RunContext

if TYPE_CHECKING:
    import lightning as L


class StepSource(Protocol):
    """A training stage, as its loader sees it."""

    @property
    def plan(self) -> BatchPlan: ...

    @property
    def run(self) -> RunContext: ...

    @property
    def trainer(self) -> L.Trainer: ...

    def micro_batches(self, step: int) -> list[Any]: ...

    def loader_state(self, step: int) -> dict[str, Any]: ...

    def load_loader_state(self, states: list[dict[str, Any]]) -> None: ...

    def summon_full_params(self) -> AbstractContextManager[None]: ...


class StepLoader:
    """Lightning's view of the training data: ``num_micro_batches`` items per optimizer step, built on demand.

    Its length is known, so that Lightning does not prefetch an item: the next rollouts must be sampled with the
    weights after the current update.
    """

    def __init__(self, stage: StepSource, num_steps: int) -> None:
        self.stage, self.num_steps, self.step = stage, num_steps, 0

    def __len__(self) -> int:
        return self.num_steps * self.stage.plan.num_micro_batches

    def __iter__(self) -> Iterator[Any]:
        while self.step < self.num_steps:
            # Ranks sample at their own pace, so the policy's shards must not need a collective meanwhile.
            with self.stage.summon_full_params():
                batches = self.stage.micro_batches(self.step)
            self.step += 1  # before the last yield: a checkpoint is only ever written between two steps
            if len(batches) < self.stage.plan.num_micro_batches:
                skip_micro_batches(self.stage.trainer, self.stage.plan.num_micro_batches - len(batches))
            yield from batches

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "stage": self.stage.run.ranks.gather(self.stage.loader_state(self.step))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.stage.load_loader_state(state["stage"])


def skip_micro_batches(trainer: L.Trainer, count: int) -> None:
    """Advance Lightning to the last micro-batches of a step that needs fewer than its plan has.

    Lightning knows one number of micro-batches for all steps, and finds the last one of a step by its counters.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    for counts in (progress.total, progress.current):
        for name in ("ready", "started", "processed", "completed"):
            setattr(counts, name, getattr(counts, name) + count)
    for optimizer in trainer.optimizers:  # Lightning does it in the first micro-batch, which is skipped
        optimizer.zero_grad()


@dataclass(frozen=True)
class Batches:
    """A dataloader of batches known in advance (Lightning would take a plain list for several dataloaders)."""

    batches: Sequence[Any]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def rescale_progress(checkpoint: dict[str, Any], num_micro_batches: int) -> None:
    """Convert Lightning's micro-batch counters: a step may have more or fewer micro-batches than when it was saved.

    Nor need the last micro-batch of the saved run be the last one now.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    progress["is_last_batch"] = False
    for counts in (progress["total"], progress["current"]):
        for name, count in counts.items():
            counts[name] = count // checkpoint["num_micro_batches"] * num_micro_batches
