"""A vLLM server's rollouts while this process trains: a thread waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING

from r1.distributed.collectives import RankGroup
from r1.rollout.base import SINGLE_RANK, Rollout, Weights, no_op
from r1.rollout.vllm_server import wait_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from r1.rollout.vllm_server import VLLMServer


class Closed(Exception):
    """Nobody wants what is in flight any more."""


class AsyncServerSampler:
    """Asks for one batch at a time. Weights are sent by who calls, for all processes of the run must come there."""

    def __init__(self, engine: VLLMServer) -> None:
        self.engine = engine
        self.pool = ThreadPoolExecutor(1, "r1-ahead")
        self.batch: Future[list[list[Rollout]]] | None = None
        self.closed = Event()
        self.held: Weights = {}

    def update(
        self, model: PreTrainedModel, version: int, ranks: RankGroup = SINGLE_RANK, weights: Weights | None = None
    ) -> None:
        """The next batch is sampled with the weights that ``model`` has now, or with these ``weights``."""
        with temporary_weights(model, weights):
            self.engine.update(model, version, ranks)
            if ranks.is_rank_zero:
                self.held = copied(model)

    def begin(self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]], stop_ids: set[int]) -> None:
        self.batch = self.pool.submit(self.engine.order(prompts, seeds, stop_ids), self._poll)

    def settle(self, poll: Callable[[], None] = no_op) -> None:
        """Until the batch is there: the server may then have other weights.

        Raises:
            UserError: the server could not be asked, or sampled with other weights.
        """
        if self.batch:
            wait_for([self.batch], poll)

    def result(self, poll: Callable[[], None] = no_op) -> list[list[Rollout]]:
        """What was sampled. Raises: UserError: as ``settle``."""
        assert self.batch
        self.settle(poll)
        return self.batch.result()

    def weights(self) -> Weights:
        """Those that the batch is sampled with; of the first process of a run alone."""
        return self.held

    def close(self) -> None:
        self.closed.set()
        self.pool.shutdown()

    def _poll(self) -> None:
        if self.closed.is_set():
            raise Closed


def copied(model: PreTrainedModel) -> Weights:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


@contextmanager
def temporary_weights(model: PreTrainedModel, weights: Weights | None) -> Iterator[None]:
    """``model`` with other weights, in the memory that it has."""
    if weights is None:
        yield
        return
    own = copied(model)
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)
