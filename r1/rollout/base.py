"""What a rollout engine takes and gives, in token ids: text is for rewards and people only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from r1.distributed.collectives import RankGroup

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Weights = dict[str, "Tensor"]


@dataclass(frozen=True)
class Rollout:
    """One completion as it was sampled.

    Attributes:
        prompt_ids: the prompt's token ids.
        completion_ids: T sampled token ids, the closing one included.
        logps: T log-probabilities under the sampling distribution (temperature applied).
        truncated: it ran into ``max_completion_length`` without a closing token.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logps: list[float]
    truncated: bool


SINGLE_RANK = RankGroup()


def no_op() -> None:
    """The ``poll`` of those whom nobody asks to stop."""


class Engine(Protocol):
    """Anything that writes completions. ``seeds[p][g]`` decides sample g of prompt p, whatever the batch around it.

    Attributes:
        exact: the log-probs it keeps are the model's own up to rounding: a trainer in float32 need not ask again.
        num_processes: that compute at once on this device's cores, this one included.
    """

    temperature: float
    max_completion_length: int
    exact: ClassVar[bool]
    num_processes: int

    def update(self, model: PreTrainedModel, version: int, ranks: RankGroup = SINGLE_RANK) -> None:
        """Sample with the weights that ``model`` has now, until the next update.

        Args:
            version: optimizer steps made: the same version is the same weights.
            ranks: the processes of the run; every one of them comes here.
        """

    def generate(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
        poll: Callable[[], None] = no_op,
    ) -> list[list[Rollout]]:
        """``len(seeds[p])`` completions for each prompt p.

        ``poll`` is called at least once per token; it raises if the run is asked to stop.
        """

    def ahead(self) -> Sampler | None:
        """What samples a batch while the policy is trained; None: it does not."""

    def close(self) -> None:
        """Give back what it holds: the run is over."""


class Sampler(Protocol):
    """An engine that is asked for one batch at a time, and not waited for."""

    def update(
        self, model: PreTrainedModel, version: int, ranks: RankGroup = SINGLE_RANK, weights: Weights | None = None
    ) -> None:
        """The next batch is sampled with the weights that ``model`` has now, or with these ``weights``."""

    def begin(self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]], stop_ids: set[int]) -> None:
        """Ask for a batch, as ``Engine.generate``."""

    def settle(self, poll: Callable[[], None] = no_op) -> None:
        """Until the batch that was begun needs this device's engine no more."""

    def result(self, poll: Callable[[], None] = no_op) -> list[list[Rollout]]:
        """The batch that was begun."""

    def weights(self) -> Weights:
        """Those that it is sampled with; of the first process of a run alone."""
