"""Collectives with failure detection: all_gather with heartbeats; an error on one rank is broadcast and stops all.

Between two collectives no rank waits for another, so a collective is the one point where a missing rank is noticed. Its
rank number is known there, and the others wait for it as long as it sends heartbeats.
"""

from __future__ import annotations

import io
import json
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from r1.core.errors import Interrupted, RankFailed, TrainingHalted, UserError
from r1.core.rank_info import RankInfo
from r1.core.secrets import redact

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # exported in another way

T = TypeVar("T")
SINGLE_PROCESS = RankInfo()
FAILED = "r1/failed"  # the store's key of the first failure, without the prefix of ``RankGroup.store``
HOSTNAME = socket.gethostname()
HEARTBEAT_S = 1.0
CAUSE_WITHIN_S = 5.0  # after a broken connection, its cause is in the store within this time


class RankGroup:
    """The processes of a run. Single process: collectives are no-ops.

    Args:
        info: the rank of this process.
        store: a key-value store of all ranks, with the prefix ``r1/``.
        timeout_s: a rank that others wait for and that sends no heartbeat for this long has hung.

    Attributes:
        failure: the error that this rank ends with, once it is known.
    """

    def __init__(self, info: RankInfo = SINGLE_PROCESS, store: Store | None = None, timeout_s: float = 0) -> None:
        self.info, self.store, self.timeout_s = info, store, timeout_s
        self.rank, self.size = info.rank, info.size
        self.barrier_id = 0
        self.failure: BaseException | None = None
        self._last_heartbeat = 0.0
        self._seen: dict[int, tuple[bytes, float]] = {}  # of each rank: its last heartbeat, and when it was first seen

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    # ---- collectives ----

    def gather(self, value: T) -> list[T]:
        """The values of all ranks: plain containers, numbers, strings, tensors. All ranks call it in the same order.

        Raises:
            RankFailed: another rank has failed, has exited, or has hung.
            Interrupted: another rank was stopped before it came here.
        """
        if self.size == 1:
            return [value]
        return [message["value"] for message in self._all_gather_checked({"value": value, "stop": None})]

    def broadcast_from_rank_zero(self, function: Callable[[], T]) -> T:
        """What ``function`` returns on rank 0; the other ranks wait, however long it takes."""
        return self.gather(function() if self.is_rank_zero else None)[0]  # type: ignore[return-value]

    def _all_gather_checked(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        # The barrier comes first: inside gloo or NCCL a rank could neither send heartbeats nor notice a missing rank.
        self.wait_for_all()
        messages = all_gather_object(message)
        if stops := [message["stop"] for message in messages if message["stop"] is not None]:
            self.failure = Interrupted(stops[0])
            raise self.failure
        return messages

    def wait_for_all(self) -> None:
        """A barrier: counts the ranks that have arrived, in the store.

        Raises:
            RankFailed: another rank has failed, or has sent no heartbeat for ``timeout_s``.
        """
        assert self.store
        self.barrier_id += 1
        self.heartbeat(now=True)
        key, pause = f"barrier/{self.barrier_id}", 0.0005
        arrived = self.store.add(key, 1)
        while arrived < self.size:
            time.sleep(pause)
            pause = min(1.5 * pause, 0.05)
            self.heartbeat()
            self._check_missing()
            arrived = self.store.add(key, 0)
        if self.is_rank_zero:  # all ranks are here, so none still polls the key of the barrier before
            self.store.delete_key(f"barrier/{self.barrier_id - 1}")

    # ---- heartbeats ----

    def heartbeat(self, now: bool = False) -> None:
        """Publish that this rank is alive, and check for failures; called from every long loop.

        Args:
            now: also within ``HEARTBEAT_S`` of the last one.

        Raises:
            RankFailed: another rank has failed.
        """
        if self.store is None or (time.monotonic() - self._last_heartbeat < HEARTBEAT_S and not now):
            return
        self._last_heartbeat = time.monotonic()
        self.store.set(f"alive/{self.rank}", f"{self.barrier_id} {self._last_heartbeat}")
        self._check_failed()

    def _check_failed(self) -> None:
        assert self.store
        if self.store.check(["failed"]):
            self.failure = RankFailed(**json.loads(self.store.get("failed")))
            raise self.failure

    def _heartbeats(self) -> Iterator[tuple[int, bytes]]:
        """The last heartbeat of each other rank; ``b"0"`` before its first one."""
        assert self.store
        for rank in range(self.size):
            if rank != self.rank:
                key = f"alive/{rank}"
                yield rank, self.store.get(key) if self.store.check([key]) else b"0"

    def _check_missing(self) -> None:
        """Raise if a rank that has not reached this barrier has sent no heartbeat for ``timeout_s``."""
        self._check_failed()
        for rank, heartbeat in self._heartbeats():
            before, since = self._seen.get(rank, (b"", 0.0))
            if heartbeat != before:  # clocks differ between machines, so it is timed by this one's
                self._seen[rank] = heartbeat, time.monotonic()
            elif int(heartbeat.split()[0]) < self.barrier_id and time.monotonic() - since > self.timeout_s:
                raise RankFailed(f"has shown no sign of life for {self.timeout_s:g} s", rank, code=1)

    # ---- failures ----

    @contextmanager
    def propagate_failures(self) -> Iterator[None]:
        """An error inside is published to the other ranks; this rank raises the error that started it all."""
        try:
            yield
        except BaseException as error:
            failure = self.report_failure(error)
            if failure is error:
                raise
            raise failure from error

    def report_failure(self, error: BaseException) -> BaseException:
        """Publish an error, or a stop, to the other ranks.

        Returns:
            The error that this rank ends with: another rank's, where ``error`` is only its consequence.
        """
        if self.store is None or self.failure:
            return self.failure or error
        try:
            if isinstance(error, Interrupted):
                self._all_gather_checked({"value": None, "stop": error.number})  # at the others' next collective
            self._wait_for_cause(error)
        except Interrupted as stop:
            return stop
        except RankFailed as cause:
            return self.failure or self._publish(cause)
        except RuntimeError as broken:  # the connection broke inside the collective
            return self.report_failure(broken)
        if isinstance(error, TrainingHalted):  # raised on every rank alike; rank 0 reports it, without a rank number
            return self._publish(RankFailed.of(error, None, ""), error) if self.is_rank_zero else error
        if not isinstance(error, UserError):
            print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
        return self._publish(error if isinstance(error, RankFailed) else RankFailed.of(error, self.rank, HOSTNAME))

    def _publish(self, failed: RankFailed, error: BaseException | None = None) -> BaseException:
        assert self.store
        # Two ranks can fail at once: compare_set keeps the first failure.
        self.store.compare_set("failed", "", json.dumps(failed.fields, default=str))
        self.failure = error or failed
        return self.failure

    def _wait_for_cause(self, error: BaseException) -> None:
        """A broken connection has its cause in another rank, which publishes it, or sends no more heartbeats.

        Raises:
            RankFailed: the cause.
        """
        if not is_connection_error(error):
            self._check_failed()
            return
        silent = dict(self._heartbeats())
        for _ in range(math.ceil(min(CAUSE_WITHIN_S, self.timeout_s / 2) / HEARTBEAT_S)):
            self.heartbeat(now=True)  # raises the published cause
            time.sleep(HEARTBEAT_S)
            silent = {rank: heartbeat for rank, heartbeat in self._heartbeats() if silent.get(rank) == heartbeat}
        if silent:
            others = "" if len(silent) == 1 else f", like {len(silent) - 1} more"
            raise RankFailed(f"shows no sign of life{others}, and the others wait", min(silent), code=1)


def is_connection_error(error: BaseException) -> bool:
    from torch.distributed import DistError

    text = str(error)
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and ("gloo" in text or "NCCL" in text))


def all_gather_object(value: Any) -> list[Any]:
    """The values of all ranks, as byte tensors over gloo; unlike torch's own, it unpickles only plain values."""
    import torch
    import torch.distributed as dist

    buffer = io.BytesIO()
    torch.save(value, buffer)
    payload = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(payload)]))
    payloads = [torch.empty(int(max(sizes)), dtype=torch.uint8) for _ in sizes]  # all_gather wants equal sizes
    dist.all_gather(payloads, torch.nn.functional.pad(payload, (0, len(payloads[0]) - len(payload))))
    return [
        torch.load(io.BytesIO(payload[: int(size)].numpy().tobytes()), weights_only=True)
        for payload, size in zip(payloads, sizes, strict=True)
    ]


@contextmanager
def init_process_group(info: RankInfo, backend: str, timeout_s: float) -> Iterator[RankGroup]:
    """Connect this process to the others of its run; a single process connects to nothing.

    Args:
        backend: of the tensors on the devices, gloo or nccl; r1's own collectives always use gloo.

    Raises:
        RankFailed: another rank has not started within ``timeout_s``, has failed or has hung.
    """
    if info.size == 1:
        yield RankGroup(info)
        return
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    from r1.distributed.rendezvous import rendezvous_env

    os.environ |= {"RANK": str(info.rank), "WORLD_SIZE": str(info.size)}  # srun has other names for them
    os.environ |= rendezvous_env(os.environ)
    timeout = timedelta(seconds=timeout_s)
    store, _, _ = next(iter(rendezvous("env://", timeout=timeout)))
    backends = backend if backend == "gloo" else f"cpu:gloo,cuda:{backend}"
    ranks = RankGroup(info, PrefixStore("r1", store), timeout_s)
    try:
        with ranks.propagate_failures():
            ranks.wait_for_all()  # torch's own waiting would not notice that a rank has failed or hung
            dist.init_process_group(backends, store=store, rank=info.rank, world_size=info.size, timeout=timeout)
            yield ranks
            ranks.gather(None)  # no rank closes its connections while another one still uses them
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
