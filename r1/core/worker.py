"""The child of ``r1.core.worker_pool``: ``{"id": 1, "job": {}}`` in, ``{"id": 1, "result": {}}`` out, as JSON lines.

A program of r1 that is started by its path, with an empty environment, calls ``main``. After its imports it forks, and
the fork does the jobs. A fork that is killed at its time limit is replaced in milliseconds. Each fork first sends
``{"ready": true}``. Both processes die with the one that started them, use 2 GiB at most, cannot write files or core
dumps and gain no privileges. Reading files and opening sockets is not forbidden.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

Handler = Callable[[dict[str, Any]], Any]
"""``handler(job)``: the result, which can be written as JSON."""

MAX_BYTES = 2 << 30
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


def main(parent: int, make_handler: Callable[[], Handler]) -> None:
    """Do jobs until the pipe closes.

    Args:
        parent: the process that sends them.
        make_handler: imports what the handler needs, and warms it up.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2):  # a cluster sends them to every process; only the trainer reacts
        signal.signal(number, signal.SIG_IGN)
    replies = private_pipe()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    handler = make_handler()
    gc.freeze()  # the collector skips these objects, so a fork does not copy their pages
    sandbox()
    kill_on_parent_death(parent)
    supervise(lambda: serve(sys.stdin.buffer, replies, handler))


def supervise(work: Callable[[], None]) -> None:
    """Run ``work`` in a fork, and in a new one whenever that is killed, until it returns. SIGUSR1 kills the fork.

    A fork has all imports and caches of this process, so it needs no warm-up.
    """
    supervisor, fork = os.getpid(), 0

    def end(*_: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(fork, signal.SIGKILL)

    while True:
        fork = os.fork()
        if fork == 0:
            kill_on_parent_death(supervisor)
            work()
            os._exit(0)
        signal.signal(signal.SIGUSR1, end)
        if os.waitpid(fork, 0)[1] == 0:
            return


def serve(jobs: BinaryIO, replies: BinaryIO, handler: Handler) -> None:
    """Do jobs until the pipe closes. Out of memory ends the process: its state cannot be trusted any more."""
    replies.write(b'{"ready": true}\n')
    for line in jobs:
        try:
            message = json.loads(line)
        except ValueError:  # blank, or cut where the parent gave up
            continue
        try:
            reply = {"id": message["id"], "result": handler(message["job"])}
            replies.write(json.dumps(reply).encode() + b"\n")
        except MemoryError:
            os._exit(1)


def private_pipe() -> BinaryIO:
    """The pipe to the parent; standard output becomes /dev/null, so no library can print into the protocol."""
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return pipe


def sandbox() -> None:
    """Limits on this process and its children, as far as the system has them."""
    # AS: a huge number ends in MemoryError, not in swapping. FSIZE and CORE 0: a write fails, a crash leaves no file.
    for limit, most in (("AS", MAX_BYTES), ("FSIZE", 0), ("CORE", 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def kill_on_parent_death(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the call, so no signal will come
        os._exit(0)
