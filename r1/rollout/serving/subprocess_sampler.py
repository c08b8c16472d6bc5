"""The embedded engine in a process of its own, with a copy of the policy: it samples while this process trains."""

from __future__ import annotations

import copy
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import torch

from r1.core.errors import STOP_SIGNALS
from r1.distributed.collectives import RankGroup
from r1.distributed.process import kill_on_parent_death
from r1.rollout.base import SINGLE_RANK, Rollout, Weights, no_op

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from r1.rollout.transformers import Transformers

Groups = list[list[Rollout]]
POLL_S = 0.005
CLOSES_WITHIN_S = 5.0


class SubprocessSampler:
    """Started at the first ``update``; the copy's weights lie in memory that both processes see."""

    def __init__(self, engine: Transformers) -> None:
        self.engine = engine
        self.copy: Any = None
        self.process: Any = None

    def update(
        self,
        model: PreTrainedModel,
        version: int,  # noqa: ARG002  # no copy but this one has them
        ranks: RankGroup = SINGLE_RANK,  # noqa: ARG002
        weights: Weights | None = None,
    ) -> None:
        """The next batch is sampled with the weights that ``model`` has now, or with these ``weights``."""
        if self.copy is None:
            self._start(model)
        with torch.no_grad():
            held = self.copy.state_dict()
            for name, value in (weights or model.state_dict()).items():
                held[name].copy_(value)
        if model.device.type == "cuda":
            torch.cuda.synchronize()  # another process cannot wait for this one's stream

    def begin(self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]], stop_ids: set[int]) -> None:
        self.pipe.send((prompts, seeds, stop_ids))

    def settle(self, poll: Callable[[], None] = no_op) -> None:
        """Nothing waits for the batch: the copy is its alone."""

    def result(self, poll: Callable[[], None] = no_op) -> Groups:
        """What it has sampled.

        Raises:
            RuntimeError: it failed, or is gone.
        """
        poll()
        while not self.pipe.poll(POLL_S):
            poll()
            if not self.process.is_alive() and not self.pipe.poll():
                raise RuntimeError(f"the process that samples ahead has died with {self.process.exitcode}")
        found: Groups | str = self.pipe.recv()
        if isinstance(found, str):
            raise RuntimeError(f"the process that samples ahead has failed:\n{found}")
        return found

    def weights(self) -> Weights:
        """Those that it samples with."""
        return {name: value.cpu().clone() for name, value in self.copy.state_dict().items()}

    def close(self) -> None:
        if self.process:
            self.pipe.close()
            self.process.kill()
            self.process.join(CLOSES_WITHIN_S)
            self.process = self.copy = None

    def _start(self, model: PreTrainedModel) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self.copy = copy.deepcopy(model).requires_grad_(False).share_memory()
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, os.getpid(), self.engine, self.copy, torch.get_num_threads())
        self.process = context.Process(target=serve, args=arguments, daemon=True, name="r1-ahead")
        self.process.start()
        theirs.close()


def serve(pipe: Connection, parent: int, engine: Transformers, model: PreTrainedModel, num_threads: int) -> None:
    """The process: orders come through ``pipe`` until it ends; signals are for the run, which says when that is."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    kill_on_parent_death(parent)
    torch.set_num_threads(num_threads)
    engine.update(model, 0)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            order = pipe.recv()
            try:
                answer: Groups | str = engine.generate(*order)
            except Exception:
                answer = traceback.format_exc(limit=-3)
            pipe.send(answer)
