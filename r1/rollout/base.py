"""The interface of a rollout engine: token ids in, sampled token ids with their log-probabilities out.

Text occurs only where ``stop`` texts end a completion: all else that reads it lies above.
"""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol, Self, TypedDict

from annotated_types import Ge, Gt, Interval, MinLen

from r1.core.errors import UserError
from r1.distributed.collectives import RankGroup

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from r1.model.loading import Model
    from r1.rollout.decoding.stop_texts import StopTexts

Weights = dict[str, "Tensor"]
CheckForStop = Callable[[], None]  # raises if the run has been asked to stop
SINGLE_RANK = RankGroup()

Temperature = Annotated[float, Ge(0)]
TopP = Annotated[float, Interval(gt=0, le=1)]
TopK = Annotated[int, Ge(0)]
MinP = Annotated[float, Interval(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Gt(0)]
StopList = list[Annotated[str, MinLen(1)]]


class Sampling(TypedDict):
    """The distribution that tokens are drawn from, and the texts that end a completion (conf/rollout/_base.yaml).

    Names and meaning are those of vLLM's ``SamplingParams``, and its order: the penalty, then the temperature, min_p,
    top_k and top_p, each on the distribution that the one before it leaves.
    """

    temperature: Temperature
    top_p: TopP
    top_k: TopK
    min_p: MinP
    repetition_penalty: RepetitionPenalty
    stop: StopList


class SamplingChanges(TypedDict):
    """The same knobs where each may stay as it is: null."""

    temperature: Temperature | None
    top_p: TopP | None
    top_k: TopK | None
    min_p: MinP | None
    repetition_penalty: RepetitionPenalty | None
    stop: StopList | None


ESCAPE = re.compile(r"\\[nrt](?![a-z])")  # typed for a line break; before a small letter it may be LaTeX's


def check_stop_list(texts: StopList) -> None:
    """Raises: UserError: a text holds a backslash and a letter in place of a line break."""
    for text in texts:
        if ESCAPE.search(text):
            message = "a backslash and a letter where a line break is meant: no completion would end there"
            hint = "in a shell $'rollout.stop=[\"\\n\"]', in YAML a text in double quotes"
            raise UserError(message, key=".stop", value=text, hint=hint)


NEUTRAL: Sampling = {  # the model's own distribution
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop": [],
}


@dataclass(frozen=True)
class Rollout:
    """One sampled completion.

    Attributes:
        prompt_ids: the prompt's token ids.
        completion_ids: T sampled token ids, including the closing one.
        logps: T log-probabilities under the sampling distribution (temperature applied).
        truncated: it reached ``max_completion_length`` without a closing token or a stop text.
        stop_text: the text of ``Sampling.stop`` that ended it with its last token. The completion's text ends before
            it; its tokens are all there. Empty: no such text did.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logps: list[float]
    truncated: bool
    stop_text: str = ""


def no_op() -> None:
    """The ``check_for_stop`` of a caller that is never asked to stop."""


def ignore_count(count: int) -> None:
    """The ``on_finished`` of a caller that shows no progress."""


class Engine(ABC):
    """Samples completions. ``seeds[p][g]`` alone decides sample g of prompt p, whatever else is in the batch.

    Attributes:
        sampling: the distribution that tokens are drawn from; temperature 0 is greedy.
        stop_texts: finds ``sampling["stop"]`` in the text of a completion; None: no text ends one.
        max_completion_length: T, tokens, including the closing one.
        batch_size: sequences sampled at once.
        on_finished: called during ``generate`` with the number of its completions that are finished so far.
        batches_per_call: batches that one call of ``generate`` needs to be busy: vLLM starts a sequence where one ends.
        max_model_len: tokens of the longest prompt with its completion; None: the model's.
        logprobs_match_trainer: the log-probs of a rollout are the model's own up to rounding, so that a trainer in
            float32 need not recompute them.
        num_processes: processes that compute on this device's cores at once, this one included.
    """

    sampling: Sampling
    stop_texts: StopTexts | None = None
    max_completion_length: int
    batch_size: int
    on_finished: Callable[[int], None] = staticmethod(ignore_count)
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

    def find_stop_texts(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """End completions at the texts of ``sampling["stop"]``, as ``tokenizer`` decodes them.

        Raises:
            UserError: no decoded text can hold one of them, or as ``check_stop_list``.
        """
        from r1.rollout.decoding.stop_texts import StopTexts

        texts = self.sampling["stop"]
        check_stop_list(texts)
        self.stop_texts = StopTexts(texts, tokenizer) if texts else None

    def with_sampling(self, changes: Sampling, tokenizer: PreTrainedTokenizerBase) -> Self:
        """A copy with the same weights that draws by other knobs. Raises: UserError: as ``find_stop_texts``."""
        engine = copy.copy(self)
        engine.sampling = changes
        engine.find_stop_texts(tokenizer)
        return engine

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
