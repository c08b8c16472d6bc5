"""``rollout.async_steps=1``: rollout batch t + 1 is sampled while update t is made, with the weights from before it.

So every batch but the first was sampled by a policy that is one rollout batch older (``train/weights_lag`` optimizer
steps), whatever the timing, and a run is as reproducible as without. What corrects for the lag: where the engine is
exact, its log-probs are the old ones of the clipped ratio, pi_now / pi_then; where it is not (half precision, vLLM),
that ratio is truncated at ``stage.importance_cap``, and the clipped one starts at 1. ``train/logprob_gap`` then shows
how far the policy has moved, besides the engine's rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from r1.data.base import Row
    from r1.rollout.base import Rollout
    from r1.rollout.beside import Beside
    from r1.rollout.inflight import InFlight
    from r1.stage.grpo import Grpo

Asked = tuple[list["Row"], list[list[int]]]


class Ahead:
    """Hands out rollout batches in order, each begun when the one before it is handed out.

    Args:
        sampler: a second process, or a server.
        asked: number of a rollout batch -> the rows and the seeds of its completions, on this device.
    """

    def __init__(self, stage: Grpo, sampler: Beside | InFlight, asked: Callable[[int], Asked]) -> None:
        self.stage, self.sampler, self.asked = stage, sampler, asked
        self.pending: int | None = None
        self.version = 0  # optimizer steps that the weights had seen which the pending batch is sampled with
        self.held: dict[str, Any] | None = None  # of a run that goes on

    def take(self, number: int) -> list[list[Rollout]]:
        """Rollout batch ``number``; the next one is on its way."""
        if self.pending != number:
            self._begin(number)
        found = self.sampler.result(self.stage.poll)
        self.pending = None
        self.stage.note({"train/weights_lag": float(self.stage.trainer.global_step - self.version)})
        if (number + 1) * self.stage.num_iterations < self.stage.trainer.max_steps:
            self._begin(number + 1)
        return found

    def settle(self) -> None:
        """Whoever gives the engine other weights waits until those of the pending batch are no longer needed."""
        self.sampler.settle(self.stage.poll)

    def _begin(self, number: int) -> None:
        stage, weights = self.stage, None
        self.version = stage.trainer.global_step
        if self.held and self.held["pending"] == number:
            weights, self.version = self.held["weights"], self.held["version"]
        self.held = None
        rows, seeds = self.asked(number)
        prompts = [stage.data.prompt_ids(stage.tokenizer, row) for row in rows]
        self.sampler.update(stage.policy, self.version, stage.ranks, weights)
        self.sampler.begin(prompts, seeds, stage.stop_ids)
        self.pending = number

    def state(self) -> dict[str, Any] | None:
        """The weights that the pending batch is sampled with, by which it is made again."""
        if self.pending is None:
            return None
        return {"pending": self.pending, "version": self.version, "weights": self.sampler.weights()}

    def load_state(self, state: dict[str, Any] | None) -> None:
        self.held = state
