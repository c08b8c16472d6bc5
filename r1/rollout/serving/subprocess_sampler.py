"""The embedded engine in a second process, with a copy of the policy: it samples while this process trains."""

from __future__ import annotations

import copy
import os
import signal
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import torch

from r1.core.errors import STOP_SIGNALS, UserError
from r1.distributed.collectives import RankGroup
from r1.distributed.process import describe_exit, kill_on_parent_death
from r1.model.trained import trained_weights
from r1.rollout.base import SINGLE_RANK, CheckForStop, Engine, Rollout, Weights, no_op

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Groups = list[list[Rollout]]
POLL_S = 0.005
JOIN_TIMEOUT_S = 5.0


class SubprocessSampler:
    """A ``Sampler`` whose process starts at the first ``update``; the two processes share the copy's memory."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.policy_copy: Any = None
        self.trained_names: list[str] = []
        self.process: Any = None

    def update(
        self,
        model: PreTrainedModel,
        version: int,  # noqa: ARG002  # only this process writes the copy, so it cannot have another version
        ranks: RankGroup = SINGLE_RANK,  # noqa: ARG002
        weights: Weights | None = None,
    ) -> None:
        """Sample the next batch with the current weights of ``model``, or with ``weights`` in their place."""
        if self.policy_copy is None:
            self._start(model)
        with torch.no_grad():
            shared = self.policy_copy.state_dict()
            for name, value in (weights or trained_weights(model)).items():
                shared[name].copy_(value)
        if model.device.type == "cuda":
            torch.cuda.synchronize()  # streams order nothing across processes: the copies must be complete

    def submit(self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]], stop_ids: set[int]) -> None:
        """Send the next batch. Raises: as ``result``."""
        try:
            self.pipe.send((prompts, seeds, stop_ids))
        except OSError:
            raise self._death() from None

    def wait_until_weights_free(self, check_for_stop: CheckForStop = no_op) -> None:
        """Return at once: this process's engine samples with other memory."""

    def result(self, check_for_stop: CheckForStop = no_op) -> Groups:
        """Wait for the submitted batch.

        Raises:
            RuntimeError: the process raised an error, or exited.
            UserError: a signal has killed it.
        """
        check_for_stop()
        while not self.pipe.poll(POLL_S):
            check_for_stop()
            # a process may die right after its reply: look into the pipe once more
            if not self.process.is_alive() and not self.pipe.poll():
                raise self._death()
        try:
            reply: Groups | str = self.pipe.recv()
        except (EOFError, OSError):  # the pipe of a dead process can be read: to its end
            raise self._death() from None
        if isinstance(reply, str):
            raise RuntimeError(f"the rollout process failed:\n{reply}")
        return reply

    def _death(self) -> UserError | RuntimeError:
        """The error of a process that has ended."""
        self.process.join(JOIN_TIMEOUT_S)
        code: int = self.process.exitcode or 0
        if code >= 0:
            return RuntimeError(f"the rollout process {describe_exit(code)}")
        message, hint = f"the rollout process was {describe_exit(code)}", "resume=auto continues the run"
        return UserError(message, key="rollout.async_steps", value=1, hint=hint, code=128 - code)

    def weights(self) -> Weights:
        """A CPU copy of the weights that the batch is sampled with, without those that are frozen in training."""
        shared = self.policy_copy.state_dict()
        return {name: shared[name].cpu().clone() for name in self.trained_names}

    def close(self) -> None:
        if self.process:
            self.pipe.close()
            self.process.kill()
            self.process.join(JOIN_TIMEOUT_S)
            self.process = self.policy_copy = None

    def _start(self, model: PreTrainedModel) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self.trained_names = list(trained_weights(model))
        self.policy_copy = copy.deepcopy(model).requires_grad_(False).share_memory()
        self.pipe, child_pipe = context.Pipe()
        args = (child_pipe, os.getpid(), self.engine, self.policy_copy, torch.get_num_threads())
        self.process = context.Process(target=serve_batches, args=args, daemon=True, name="r1-async-rollouts")
        self.process.start()
        child_pipe.close()


def serve_batches(pipe: Connection, parent: int, engine: Engine, model: PreTrainedModel, num_threads: int) -> None:
    """The process: sample each batch that comes through ``pipe`` until the pipe closes.

    A reply is the groups, or a traceback. Stop signals are ignored: the run handles them and kills this process.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    kill_on_parent_death(parent)
    torch.set_num_threads(num_threads)
    engine.update(model, 0)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            prompts, seeds, stop_ids = pipe.recv()
            try:
                reply: Groups | str = engine.generate(prompts, seeds, stop_ids)
            except Exception:
                reply = traceback.format_exc(limit=-3)
            pipe.send(reply)
