"""The scoring process: ``{"id": 1, "gold": text, "answer": text, "rules": {}}`` in, ``{"id": 1, "equal": bool}`` out.

Started by its path (r1/data/verifier/pool.py) with an empty environment; of r1 it imports the relation alone.
After the imports it forks, and the fork compares. A fork that is killed at its time limit is replaced in milliseconds.
Each fork first sends ``{"ready": true}``. Both processes die with the trainer, use 2 GiB at most, cannot write files or
core dumps and gain no privileges. Reading files and opening sockets is not forbidden: answers are parsed, never run as
code.
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
from pathlib import Path
from typing import Any, BinaryIO

Judge = Callable[[str, str, dict[str, Any]], bool]
"""``judge(gold, answer, rules)``: are both the same answer?"""

MAX_BYTES = 2 << 30
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
WARM_UP = (  # mpmath computes its constants at their first use
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{1+\sqrt{5}}{2}", "x=0.5"),
    (r"\sin\pi", r"\ln 2"),
)


def supervise(work: Callable[[], None]) -> None:
    """Run ``work`` in a fork, and in a new one whenever that is killed, until it returns. SIGUSR1 kills the fork.

    A fork has all imports and the parser's caches of this process, so it needs no warm-up.
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


def serve(jobs: BinaryIO, replies: BinaryIO, judge: Judge) -> None:
    """Answer jobs until the pipe closes. Out of memory ends the process: its state cannot be trusted any more."""
    replies.write(b'{"ready": true}\n')
    for line in jobs:
        job = json.loads(line)
        try:
            equal = judge(job["gold"], job["answer"], job["rules"])
        except MemoryError:
            os._exit(1)
        except Exception:  # an answer that the parser cannot read is a wrong answer
            equal = False
        replies.write(json.dumps({"id": job["id"], "equal": equal}).encode() + b"\n")


def private_pipe() -> BinaryIO:
    """The pipe to the trainer; standard output becomes /dev/null, so no library can print into the protocol."""
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


def math_judge() -> Judge:
    """The relation "same answer", imported from the folder that this file lies in."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from r1.data.verifier.relation import Rules, same_answer

    return lambda gold, answer, rules: same_answer(gold, answer, Rules(**rules))


def main(parent: int, make_judge: Callable[[], Judge] = math_judge) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR2):  # a cluster sends them to every process; only the trainer reacts
        signal.signal(number, signal.SIG_IGN)
    replies = private_pipe()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    judge = make_judge()
    for gold, answer in WARM_UP:
        judge(gold, answer, {"rel_tol": 0.0, "units": "optional", "brackets": "optional"})
    gc.freeze()  # the collector skips these objects, so a fork does not copy their pages
    sandbox()
    kill_on_parent_death(parent)
    supervise(lambda: serve(sys.stdin.buffer, replies, judge))


if __name__ == "__main__":
    main(int(sys.argv[1]))
