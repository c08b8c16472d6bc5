"""Several processes as one run. They meet: each brings a value, and each leaves with the values of all.

Between two meetings no rank waits for another, so a meeting is the one place where a rank can be missing. There it is
known by name, and waited for as long as it shows signs of life. What ends one rank's part of the run is told to the
others, who end theirs.
"""

from __future__ import annotations

import io
import json
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
ALONE = RankInfo()
FAILED = "r1/failed"  # the store's key for the first failure
HOSTNAME = socket.gethostname()
SIGN_EVERY_S = 1.0  # seconds between two signs of life
CAUSE_WITHIN_S = 5.0  # a broken connection is a consequence: its cause becomes known within this time


class RankGroup:
    """The processes of a run, as one of them sees them; alone, it meets nobody.

    Args:
        place: this process's.
        store: what all can write to and read, while they work.
        timeout_s: a rank that is waited for and has shown no sign of life for so long has hung.
    """

    def __init__(self, place: RankInfo = ALONE, store: Store | None = None, timeout_s: float = 0) -> None:
        self.place, self.store, self.timeout_s = place, store, timeout_s
        self.rank, self.size = place.rank, place.size
        self.barrier_id = 0
        self.ended: BaseException | None = None  # what this rank's part has ended with
        self._signed = 0.0
        self._seen: dict[int, tuple[bytes, float]] = {}

    @property
    def first(self) -> bool:
        return self.rank == 0

    # ---- meetings ----

    def gather(self, value: T) -> list[T]:
        """The values of all ranks: plain containers, numbers, texts, tensors. All call this, in the same order.

        Raises:
            RankFailed: one of the others has failed, is gone, or has hung.
            Interrupted: one of them was stopped before it came here.
        """
        if self.size == 1:
            return [value]
        return [found["value"] for found in self._all_gather_checked({"value": value, "stop": None})]

    def broadcast_from_rank_zero(self, function: Callable[[], T]) -> T:
        """What the first rank makes of it; the others wait, however long it takes."""
        return self.gather(function() if self.first else None)[0]  # type: ignore[return-value]

    def _all_gather_checked(self, brought: dict[str, Any]) -> list[dict[str, Any]]:
        self._wait_for_all()
        found = all_gather_object(brought)
        if stops := [f["stop"] for f in found if f["stop"] is not None]:
            self.ended = Interrupted(stops[0])
            raise self.ended
        return found

    def _wait_for_all(self) -> None:
        assert self.store
        self.barrier_id += 1
        self.sign(now=True)
        arrived, pause = self.store.add(f"meeting/{self.barrier_id}", 1), 0.0005
        while arrived < self.size:
            time.sleep(pause)
            pause = min(1.5 * pause, 0.05)
            self.sign()
            self._check_missing()
            arrived = self.store.add(f"meeting/{self.barrier_id}", 0)
        if self.first:
            self.store.delete_key(f"meeting/{self.barrier_id - 1}")

    # ---- signs of life ----

    def sign(self, now: bool = False) -> None:
        """Called wherever time passes: say that this rank is alive, and learn whether another has failed.

        Raises:
            RankFailed: it has.
        """
        if self.store is None or (time.monotonic() - self._signed < SIGN_EVERY_S and not now):
            return
        self._signed = time.monotonic()
        self.store.set(f"alive/{self.rank}", f"{self.barrier_id} {self._signed}")
        self._check_failed()

    def _check_failed(self) -> None:
        assert self.store
        if self.store.check(["failed"]):
            self.ended = RankFailed(**json.loads(self.store.get("failed")))
            raise self.ended

    def _signs(self) -> Iterator[tuple[int, bytes]]:
        """The last sign of life of each of the others."""
        assert self.store
        for rank in range(self.size):
            if rank != self.rank and self.store.check([f"alive/{rank}"]):
                yield rank, self.store.get(f"alive/{rank}")

    def _check_missing(self) -> None:
        """Whether those who are not here yet still show signs of life."""
        self._check_failed()
        for rank, sign in self._signs():
            before, since = self._seen.get(rank, (b"", 0.0))
            if sign != before:
                self._seen[rank] = sign, time.monotonic()
            elif int(sign.split()[0]) < self.barrier_id and time.monotonic() - since > self.timeout_s:
                raise RankFailed(f"has shown no sign of life for {self.timeout_s:g} s", rank, code=1)

    # ---- the end ----

    @contextmanager
    def propagate_failures(self) -> Iterator[None]:
        """What ends this rank's part is told to the others; what has ended theirs ends this one."""
        try:
            yield
        except BaseException as error:
            told = self.told(error)
            if told is error:
                raise
            raise told from error

    def told(self, error: BaseException) -> BaseException:
        """Tell the others of an error, or of a stop; the error that this rank ends with."""
        if self.store is None or self.ended:
            return self.ended or error
        try:
            if isinstance(error, Interrupted):
                self._all_gather_checked({"value": None, "stop": error.number})  # where the others come next
            self._wait_for_cause(error)
        except Interrupted as stop:
            return stop
        except RankFailed as others:
            return self.ended or self._publish(others)
        except RuntimeError as broken:  # the meeting did not take place
            return self.told(broken)
        if isinstance(error, TrainingHalted):  # every rank says so; the first one's word is enough
            return self._publish(RankFailed.of(error, None, ""), error) if self.first else error
        if not isinstance(error, UserError):
            print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
        return self._publish(error if isinstance(error, RankFailed) else RankFailed.of(error, self.rank, HOSTNAME))

    def _publish(self, failed: RankFailed, error: BaseException | None = None) -> BaseException:
        assert self.store
        self.store.compare_set("failed", "", json.dumps(failed.fields, default=str))
        self.ended = error or failed
        return self.ended

    def _wait_for_cause(self, error: BaseException) -> None:
        """A broken connection has its cause in another rank: in its own words, or in its silence.

        Raises:
            RankFailed: the cause.
        """
        if not broken_connection(error):
            self._check_failed()
            return
        silent = dict(self._signs())
        for _ in range(round(CAUSE_WITHIN_S / SIGN_EVERY_S)):
            self.sign(now=True)
            time.sleep(SIGN_EVERY_S)
            silent = {rank: sign for rank, sign in self._signs() if silent.get(rank) == sign}
        if silent:
            alone = "" if len(silent) == 1 else f", like {len(silent) - 1} more"
            raise RankFailed(f"shows no sign of life{alone}, and the others wait", min(silent), code=1)


def broken_connection(error: BaseException) -> bool:
    from torch.distributed import DistError

    said = str(error)
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and ("gloo" in said or "NCCL" in said))


def all_gather_object(value: Any) -> list[Any]:
    """The values of all ranks, as tensors of bytes over gloo; only plain values and tensors can come out of them."""
    import torch
    import torch.distributed as dist

    buffer = io.BytesIO()
    torch.save(value, buffer)
    mine = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(mine)]))
    parts = [torch.empty(int(max(sizes)), dtype=torch.uint8) for _ in sizes]
    dist.all_gather(parts, torch.nn.functional.pad(mine, (0, len(parts[0]) - len(mine))))
    return [
        torch.load(io.BytesIO(part[: int(size)].numpy().tobytes()), weights_only=True)
        for part, size in zip(parts, sizes, strict=True)
    ]


@contextmanager
def init_process_group(place: RankInfo, backend: str, timeout_s: float) -> Iterator[RankGroup]:
    """This process among the others of its run; alone, nothing is connected.

    Args:
        backend: of the tensors on the devices: gloo or nccl. What ranks tell each other goes over gloo.
    """
    if place.size == 1:
        yield RankGroup(place)
        return
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    from r1.distributed.rendezvous import rendezvous_env

    os.environ |= {"RANK": str(place.rank), "WORLD_SIZE": str(place.size)}  # srun has other names for them
    os.environ |= rendezvous_env(os.environ)
    timeout = timedelta(seconds=timeout_s)
    store, _, _ = next(iter(rendezvous("env://", timeout=timeout)))
    both = backend if backend == "gloo" else f"cpu:gloo,cuda:{backend}"
    dist.init_process_group(both, store=store, rank=place.rank, world_size=place.size, timeout=timeout)
    ranks = RankGroup(place, PrefixStore("r1", store), timeout_s)
    try:
        with ranks.propagate_failures():
            yield ranks
            ranks.gather(None)  # none leaves before all are done
    finally:
        dist.destroy_process_group()
