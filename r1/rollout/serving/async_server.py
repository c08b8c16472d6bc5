"""Rollouts of a vLLM server while this process trains: a thread waits for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING

from r1.distributed.collectives import RankGroup
from r1.model.trained import load_trained, trained_weights
from r1.rollout.base import SINGLE_RANK, CheckForStop, Rollout, Weights, no_op
from r1.rollout.serving.vllm_client import wait_for_futures
from r1.rollout.serving.weight_sync import WeightSyncedEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SamplerClosed(Exception):
    """Ends the thread: the sampler was closed, and its batch is no longer needed."""


class AsyncServerSampler:
    """A ``Sampler`` for one batch at a time.

    Weights are sent by the caller's thread, because that is a collective operation of all ranks.
    """

    def __init__(self, engine: WeightSyncedEngine) -> None:
        self.engine = engine
        self.pool = ThreadPoolExecutor(1, "r1-async-rollouts")
        self.batch: Future[list[list[Rollout]]] | None = None
        self.closed = Event()
        self.sampled_weights: Weights = {}

    def update(
        self, model: PreTrainedModel, version: int, ranks: RankGroup = SINGLE_RANK, weights: Weights | None = None
    ) -> None:
        """Sample the next batch with the current weights of ``model``, or with ``weights`` in their place."""
        with temporary_weights(model, weights):
            self.engine.update(model, version, ranks)
            if ranks.is_rank_zero:
                self.sampled_weights = copy_weights(model)

    def submit(self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]], stop_ids: set[int]) -> None:
        self.batch = self.pool.submit(self.engine.prepare_request(prompts, seeds, stop_ids), self._check_closed)

    def wait_until_weights_free(self, check_for_stop: CheckForStop = no_op) -> None:
        """Wait for the whole batch: the server has one copy of the weights.

        Raises:
            UserError: the server does not answer, or sampled with other weights.
        """
        if self.batch:
            wait_for_futures([self.batch], check_for_stop)

    def result(self, check_for_stop: CheckForStop = no_op) -> list[list[Rollout]]:
        """The submitted batch. Raises: UserError: as ``wait_until_weights_free``."""
        assert self.batch
        self.wait_until_weights_free(check_for_stop)
        return self.batch.result()

    def weights(self) -> Weights:
        """The weights that the batch is sampled with; empty but on rank 0."""
        return self.sampled_weights

    def close(self) -> None:
        self.closed.set()
        self.pool.shutdown()

    def _check_closed(self) -> None:
        if self.closed.is_set():
            raise SamplerClosed


def copy_weights(model: PreTrainedModel) -> Weights:
    """The weights that are trained, copied to CPU memory."""
    return {name: value.detach().to("cpu", copy=True) for name, value in trained_weights(model).items()}


@contextmanager
def temporary_weights(model: PreTrainedModel, weights: Weights | None) -> Iterator[None]:
    """Inside, ``model`` has other ``weights``, loaded in place; None: its own."""
    if weights is None:
        yield
        return
    original = copy_weights(model)
    load_trained(model, weights)
    try:
        yield
    finally:
        load_trained(model, original)
