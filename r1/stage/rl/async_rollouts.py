"""``rollout.async_steps=1``: rollout batch t + 1 is sampled while update t is made, with the weights from before it.

So every batch but the first was sampled by a policy that is one rollout batch older (``train/weights_lag`` optimizer
steps), whatever the timing, and a run is as reproducible as without. What corrects for the lag: where the engine is
exact, its log-probs are the old ones of the clipped ratio, pi_now / pi_then; where it is not (half precision, vLLM),
that ratio is truncated at ``stage.importance_cap``, and the clipped one starts at 1. ``train/logprob_gap`` then shows
how far the policy has moved, besides the engine's rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r1.rollout.base import Rollout

if TYPE_CHECKING:
    from collections.abc import Callable

    from r1.data.base import Row
    from r1.rollout.base import Sampler
    from r1.stage.grpo import Grpo

PromptsAndSeeds = tuple[list["Row"], list[list[int]]]


@dataclass(frozen=True)
class RolloutBatch:
    """A rollout batch that is there: this device's groups, and the optimizer steps that its weights had seen."""

    number: int
    version: int
    groups: list[list[Rollout]]


class AsyncRollouts:
    """Hands out rollout batches in order, each begun when the one before it is handed out.

    Args:
        sampler: a second process, or a server.
        asked: number of a rollout batch -> the rows and the seeds of its completions, on this device.
    """

    def __init__(self, stage: Grpo, sampler: Sampler, asked: Callable[[int], PromptsAndSeeds]) -> None:
        self.stage, self.sampler, self.asked = stage, sampler, asked
        self.pending: int | None = None
        self.version = 0  # optimizer steps that the weights had seen which the pending batch is sampled with
        self.taken: RolloutBatch | None = None  # the newest batch that every device has
        self.held: dict[str, Any] | None = None  # the pending one of a run that goes on

    def take(self, number: int) -> list[list[Rollout]]:
        """Rollout batch ``number``; the next one is on its way."""
        if self.taken is None or self.taken.number != number:
            self.taken = self._result(number)
            self.pending = None
        if (number + 1) * self.stage.num_iterations < self.stage.trainer.max_steps:
            self._begin(number + 1)
        self.stage.note({"train/weights_lag": float(self.stage.trainer.global_step - self.taken.version)})
        return self.taken.groups

    def settle(self) -> None:
        """Whoever gives the engine other weights waits until no device needs those of its pending batch any more."""
        self.sampler.wait_until_weights_free(self.stage.poll)
        self.stage.gather(None)

    def _result(self, number: int) -> RolloutBatch:
        if self.pending != number:
            self._begin(number)
        groups = self.sampler.result(self.stage.poll)
        self.stage.gather(None)  # until then another device may be stopped, and need the weights that it is made with
        return RolloutBatch(number, self.version, groups)

    def _begin(self, number: int) -> None:
        stage, weights, version = self.stage, None, self.stage.trainer.global_step
        if self.held and self.held["number"] == number:
            weights, version = self.held["weights"], self.held["version"]
        rows, seeds = self.asked(number)
        prompts = [stage.data.prompt_ids(stage.tokenizer, row) for row in rows]
        self.sampler.update(stage.policy, version, stage.ranks, weights)
        self.sampler.submit(prompts, seeds, stage.stop_ids)
        self.pending, self.version, self.held = number, version, None

    def state(self, step: int) -> dict[str, Any]:
        """What makes the same batches again before ``step``: of one that ``step`` is about, the completions; of one
        that is pending, the weights, which are the first device's to keep.
        """
        taken = pending = None
        if self.taken and self.taken.number * self.stage.num_iterations == step:
            taken = vars(self.taken) | {"groups": [[vars(r) for r in group] for group in self.taken.groups]}
        elif self.stage.ranks.is_rank_zero:
            pending = self.held  # it may not have been begun again yet
            if self.pending is not None:
                pending = {"number": self.pending, "version": self.version, "weights": self.sampler.weights()}
        return {"taken": taken, "pending": pending}

    def load_state(self, states: list[dict[str, Any]]) -> None:
        """Those of all devices that there were then; each takes its share of the groups."""
        self.held = states[0]["pending"]
        if not states[0]["taken"]:
            return
        groups = [[Rollout(**r) for r in group] for state in states for group in state["taken"]["groups"]]
        share = len(groups) // self.stage.ranks.size
        first = self.stage.ranks.rank * share
        self.taken = RolloutBatch(**states[0]["taken"] | {"groups": groups[first : first + share]})
