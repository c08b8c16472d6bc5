"""The process that runs solutions: ``{"source": text, "tests": {}, ...}`` in, which tests it has passed out.

Started by its path (r1/data/verifier/code.py) with an empty environment. The solution runs in a sandbox of bubblewrap
(code_harness.py); here, outside of it, its outputs are compared with the expected ones, which never enter it.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the folder of r1, started by its path

from r1.core.worker import Handler, main
from r1.data.verifier import code_harness
from r1.data.verifier.code_tests import CodeTests, passes

HARNESS = Path(code_harness.__file__).read_text()
MAX_REPLIES = 64 << 20  # bytes of all outputs of a solution
LIMITS = {"FSIZE": 0, "CORE": 0, "NOFILE": 64}
NUM_TASKS = 64  # threads of a solution and the harness, counted by the kernel's user
FIRST_UID, NUM_UIDS = 50_000, 10_000  # a user of its own for each worker: the limit of tasks counts by user
SYSTEM = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
FOLDERS = ("/usr", "/usr/local", "/etc", "/dev", "/python", "/python/bin")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}


def interpreter() -> tuple[Path, Path]:
    """The real file of this interpreter, and the folder with its standard library in lib/."""
    return Path(sys.executable).resolve(), Path(sys.base_prefix)


def bubblewrap(bwrap: str) -> list[str]:
    """The sandbox: nothing but the interpreter and the system's libraries, all read-only, and no way out."""
    program, prefix = interpreter()
    command = [bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if os.geteuid() == 0:  # the harness becomes a user of its own, whose tasks are counted apart
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", str(FIRST_UID), "--gid", str(FIRST_UID)]
    command += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    for folder in FOLDERS:  # bubblewrap would make them for root alone
        command += ["--perms", "0755", "--dir", folder]
    for folder in SYSTEM:
        command += ["--ro-bind-try", folder, folder]
    for name in ("lib", "lib64"):
        command += ["--ro-bind-try", str(prefix / name), f"/python/{name}"]
    command += ["--ro-bind", str(program), f"/python/bin/{program.name}"]
    for name in ("null", "urandom"):
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    return [*command, "--remount-ro", "/", "--chdir", "/", f"/python/bin/{program.name}"]


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run one solution on its tests, until its time is over.

    Returns:
        ``passed``: whether each test has passed; ``timeout``: the time was over before all had ended; ``error``: what
        the sandbox has written if it could not start.
    """
    tests, bwrap = CodeTests(**job["tests"]), job["bwrap"]
    limits = LIMITS | {"AS": job["memory_mb"] << 20} | ({"NPROC": NUM_TASKS} if bwrap else {})
    uid = FIRST_UID + os.getpid() % NUM_UIDS if bwrap and os.geteuid() == 0 else None
    message = {"source": job["source"], "fn_name": tests.fn_name, "inputs": tests.inputs, "limits": limits, "uid": uid}
    command = [*(bubblewrap(bwrap) if bwrap else [sys.executable]), "-s", "-P", "-S", "-c", HARNESS]
    deadline = time.monotonic() + job["seconds"]
    passed: list[bool] = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, bufsize=0
    ) as process:
        try:
            for reply in replies(process, json.dumps(message).encode(), deadline):
                passed.append(reply["finished"] is True and passes(tests, len(passed), reply["output"]))
                if len(passed) == len(tests.outputs) or not (passed[-1] or job["run_all"]):
                    break
        except (ValueError, TypeError, KeyError, RecursionError):  # the solution has written into the harness's pipe
            passed = [False]
        finally:
            process.kill()
        assert process.stderr
        error = process.stderr.read(2000).decode(errors="replace") if not passed else ""
    missing = [False] * (len(tests.outputs) - len(passed))
    return {"passed": passed + missing, "timeout": time.monotonic() >= deadline, "error": error}


def replies(process: subprocess.Popen[bytes], message: bytes, deadline: float) -> Iterator[dict[str, Any]]:
    """Send the job, and yield the harness's lines until it ends, the deadline passes or it has written too much."""
    assert process.stdin
    assert process.stdout
    to_harness, from_harness = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(to_harness, False)
    rest, writes, chunks, size = memoryview(message), [to_harness], list[bytes](), 0
    while size <= MAX_REPLIES and (seconds := deadline - time.monotonic()) > 0:
        readable, writable, _ = select.select([from_harness], writes, [], seconds)
        if writable:
            try:
                rest = rest[os.write(to_harness, rest) :]
            except BrokenPipeError:  # it has not started
                rest = memoryview(b"")
            if not rest:
                writes.clear()
                process.stdin.close()
        if readable:
            chunk = os.read(from_harness, 1 << 20)
            if not chunk:
                return
            size += len(chunk)
            chunks.append(chunk)
            if b"\n" in chunk:
                *lines, rest_of_line = b"".join(chunks).split(b"\n")
                chunks = [rest_of_line]
                yield from map(json.loads, lines)


def solution_runner() -> Handler:
    if os.uname().machine not in code_harness.SYSCALLS:
        raise NotImplementedError(f"no system calls are known of {os.uname().machine}")
    return run


if __name__ == "__main__":
    main(int(sys.argv[1]), solution_runner)
