"""What a rollout engine takes and gives, in token ids: text is for rewards and people only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


def carry_on() -> None:
    """The ``poll`` of those whom nobody asks to stop."""


class Engine(Protocol):
    """Anything that writes completions. ``seeds[p][g]`` decides sample g of prompt p, whatever the batch around it."""

    temperature: float
    max_completion_length: int

    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
        poll: Callable[[], None] = carry_on,
    ) -> list[list[Rollout]]:
        """``len(seeds[p])`` completions for each prompt p.

        ``poll`` is called at least once per token; it raises if the run is asked to stop.
        """
