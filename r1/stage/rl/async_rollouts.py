"""``rollout.async_steps=1``: rollout batch t + 1 is sampled while update t is made, with the weights from before it.

Every batch but the first is therefore sampled by a policy that is one rollout batch older, whatever the timing
(``train/weights_lag``, optimizer steps), and a run is as reproducible as a synchronous one. The lag is corrected by the
clipped ratio pi_trainer / pi_engine: the engine's log-probs are those of the weights that sampled. In half precision or
with vLLM the ratio includes the engine's rounding, as in prime-rl and TRL's asynchronous trainer.
``train/logprob_gap`` includes how far the policy has moved, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from r1.data.base import Row
from r1.rollout.base import Rollout, Sampler
from r1.stage.runtime.policy_sampler import PolicySampler

PromptsAndSeeds = tuple[list[Row], list[list[int]]]


class TrainerProgress(Protocol):
    """The two counters of Lightning's trainer that scheduling needs."""

    @property
    def global_step(self) -> int: ...

    @property
    def max_steps(self) -> int: ...


@dataclass(frozen=True)
class RolloutBatch:
    """A sampled rollout batch.

    Attributes:
        number: of the rollout batch.
        version: optimizer steps that its weights had seen.
        groups: this rank's groups of completions.
    """

    number: int
    version: int
    groups: list[list[Rollout]]


class AsyncRollouts:
    """Returns rollout batches in order and starts the next one whenever one is returned.

    Args:
        engine_sampler: a second process, or a server.
        sampler: the policy and its prompts.
        prompts_and_seeds: number of a rollout batch -> the rows and the seeds of its completions, on this rank.
        steps_per_batch: optimizer steps per rollout batch.
        trainer: returns Lightning's trainer, which is known once the run has started.
    """

    def __init__(
        self,
        engine_sampler: Sampler,
        sampler: PolicySampler,
        prompts_and_seeds: Callable[[int], PromptsAndSeeds],
        steps_per_batch: int,
        trainer: Callable[[], TrainerProgress],
    ) -> None:
        self.engine_sampler, self.sampler, self.run = engine_sampler, sampler, sampler.run
        self.prompts_and_seeds, self.steps_per_batch, self.trainer = prompts_and_seeds, steps_per_batch, trainer
        self.pending: int | None = None  # number of the batch that is being sampled
        self.version = 0  # of the weights that the pending batch is sampled with
        self.current: RolloutBatch | None = None  # the newest batch that every rank has received
        self.restored: dict[str, Any] | None = None  # number, version and weights of a resumed run's pending batch

    def next_batch(self, number: int) -> list[list[Rollout]]:
        """Rollout batch ``number``; starts the next one in the background."""
        if self.current is None or self.current.number != number:
            self.current = self._result(number)
            self.pending = None
        # After the last batch nothing is sampled, but the weights are kept: a run that is extended samples with them.
        self._start(number + 1, submit=(number + 1) * self.steps_per_batch < self.trainer().max_steps)
        return self.current.groups

    @property
    def weights_lag(self) -> int:
        """Optimizer steps between the policy and the weights that the current batch was sampled with."""
        assert self.current is not None
        return self.trainer().global_step - self.current.version

    def wait_until_weights_free(self) -> None:
        """Block until no rank needs the engine's weights for a pending batch; then they may be replaced."""
        self.engine_sampler.wait_until_weights_free(self.run.check_for_stop)
        self.run.ranks.gather(None)

    def _result(self, number: int) -> RolloutBatch:
        if self.pending != number:
            self._start(number)
        groups = self.engine_sampler.result(self.run.check_for_stop)
        # Barrier: until every rank has its part, another one may be stopped, and a checkpoint then needs the weights
        # that this batch was sampled with.
        self.run.ranks.gather(None)
        return RolloutBatch(number, self.version, groups)

    def _start(self, number: int, submit: bool = True) -> None:
        weights, version, policy = None, self.trainer().global_step, self.sampler.policy
        if self.restored and self.restored["number"] == number:
            weights, version = self.restored["weights"], self.restored["version"]
        self.engine_sampler.update(policy, version, self.run.ranks, weights)
        if submit:
            rows, seeds = self.prompts_and_seeds(number)
            self.engine_sampler.submit([self.sampler.prompt_ids(row) for row in rows], seeds, self.sampler.stop_ids)
        self.pending, self.version, self.restored = number, version, None

    def state(self, step: int) -> dict[str, Any]:
        """State that reproduces the same batches before ``step``.

        Of the batch that ``step`` trains on, the completions; of a pending batch, the weights, saved by rank zero.
        """
        current = pending = None
        if self.current and self.current.number * self.steps_per_batch == step:
            groups = [[vars(rollout) for rollout in group] for group in self.current.groups]
            current = vars(self.current) | {"groups": groups}
        elif self.run.ranks.is_rank_zero:
            pending = self.restored  # a resumed run may be stopped before it starts the batch again
            if self.pending is not None:
                weights = self.engine_sampler.weights()
                pending = {"number": self.pending, "version": self.version, "weights": weights}
        return {"taken": current, "pending": pending}

    def load_state(self, states: list[dict[str, Any] | None]) -> None:
        """Restore from the states of all ranks of the saved run; each rank takes its share of the groups.

        Args:
            states: None where the saved run was synchronous: the first batch has the current weights.
        """
        saved = [state for state in states if state]
        if not saved:
            return
        self.restored = saved[0]["pending"]
        if not saved[0]["taken"]:
            return
        groups = [[Rollout(**r) for r in group] for state in saved for group in state["taken"]["groups"]]
        share = len(groups) // self.run.ranks.size
        first = self.run.ranks.rank * share
        self.current = RolloutBatch(**saved[0]["taken"] | {"groups": groups[first : first + share]})
