"""The interface of a rollout engine: token ids in, sampled token ids with their log-probabilities out.

Text does not occur here: only rewards and readers need it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from r1.distributed.collectives import RankGroup

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from r1.model.loading import Model

Weights = dict[str, "Tensor"]
CheckForStop = Callable[[], None]  # raises if the run has been asked to stop
SINGLE_RANK = RankGroup()


@dataclass(frozen=True)
class Rollout:
    """One sampled completion.

    Attributes:
        prompt_ids: the prompt's token ids.
        completion_ids: T sampled token ids, including the closing one.
        logps: T log-probabilities under the sampling distribution (temperature applied).
        truncated: it reached ``max_completion_length`` without a closing token.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logps: list[float]
    truncated: bool


def no_op() -> None:
    """The ``check_for_stop`` of a caller that is never asked to stop."""


class Engine(ABC):
    """Samples completions. ``seeds[p][g]`` alone decides sample g of prompt p, whatever else is in the batch.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        max_completion_length: T, tokens, including the closing one.
        batch_size: sequences sampled at once.
        batches_per_call: batches that one call of ``generate`` needs to be busy: vLLM starts a sequence where one ends.
        max_model_len: tokens of the longest prompt with its completion; None: the model's.
        logprobs_match_trainer: the log-probs of a rollout are the model's own up to rounding, so that a trainer in
            float32 need not recompute them.
        num_processes: processes that compute on this device's cores at once, this one included.
    """

    temperature: float
    max_completion_length: int
    batch_size: int
    batches_per_call: ClassVar[int] = 1
    max_model_len: int | None = None
    logprobs_match_trainer: ClassVar[bool] = False
    num_processes: int = 1

    @staticmethod
    def check_package() -> None:
        """Check, without importing anything, that the packages this engine needs are installed.

        Raises:
            UserError: a package is missing or has the wrong version.
        """
        return

    def check_model(self, model: Model) -> None:  # noqa: ARG002
        """Check, without loading weights, that this engine can sample from ``model``.

        Raises:
            UserError: it cannot.
        """
        return

    @abstractmethod
    def update(self, model: PreTrainedModel, version: int, ranks: RankGroup = SINGLE_RANK) -> None:
        """Sample with the current weights of ``model`` until the next update.

        Args:
            version: optimizer steps so far; equal versions mean equal weights.
            ranks: the processes of the run; each of them calls this.
        """

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
        check_for_stop: CheckForStop = no_op,
    ) -> list[list[Rollout]]:
        """Sample ``len(seeds[p])`` completions for each prompt p; ``check_for_stop`` is called at least per token."""

    def async_sampler(self) -> Sampler | None:
        """A sampler that works while the policy trains, or None if the engine has none."""
        return None

    def close(self) -> None:
        """Free processes, threads and memory at the end of the run."""
        return


class Sampler(Protocol):
    """Samples one rollout batch in the background."""

    def update(
        self, model: PreTrainedModel, version: int, ranks: RankGroup = SINGLE_RANK, weights: Weights | None = None
    ) -> None:
        """Sample the next batch with the current weights of ``model``, or with ``weights`` in their place."""

    def submit(self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]], stop_ids: set[int]) -> None:
        """Start a batch; the arguments are those of ``Engine.generate``."""

    def wait_until_weights_free(self, check_for_stop: CheckForStop = no_op) -> None:
        """Wait until the submitted batch no longer needs the weights that the engine has now."""

    def result(self, check_for_stop: CheckForStop = no_op) -> list[list[Rollout]]:
        """Wait for the submitted batch."""

    def weights(self) -> Weights:
        """The weights that the submitted batch is sampled with; defined on rank 0 only."""
