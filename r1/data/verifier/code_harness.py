"""The program inside the sandbox: runs a solution once per test and writes what each run has put out.

It is started by its text, with no other file of r1, and imports the standard library alone. It gets inputs and no
expected outputs, so whatever a solution does to it, the solution can only change its own output. Each test runs in a
fork, which may start threads and no process.

On standard input: ``{"source": text, "fn_name": name or null, "inputs": [...], "limits": {"AS": bytes}, "uid": or
null}``. On standard output a line per test, ``{"finished": true, "output": text}``: what was written to standard
output, or of a function the result as JSON.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import resource
import select
import signal
import struct
import sys
import types
from typing import Any

MAX_OUTPUT = 4 << 20  # bytes of one test
PRELUDE = (  # a model writes against LeetCode's and LiveCodeBench's imports, which their statements do not show
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("itertools", "functools", "operator", "io", "sys", "json", "typing", "builtins"),  # the last one wins
)
CLONE_THREAD = 0x10000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 38, 2
EPERM, ENOSYS = 1, 38
SYSCALLS = {  # machine: (audit architecture, clone, clone3, system calls that are refused)
    "x86_64": (
        0xC000003E,
        56,
        435,
        # fork, vfork; socket, of which some families know no namespace; System V's shared memory and queues; ptrace;
        # keys; unshare, setns; memfd, bpf, perf, userfaultfd, io_uring
        (57, 58, 41, 29, 68, 64, 101, 248, 249, 250, 272, 308, 319, 321, 298, 323, 425),
    ),
    "aarch64": (0xC00000B7, 220, 435, (198, 194, 186, 190, 117, 217, 218, 219, 97, 268, 279, 280, 241, 282, 425)),
}


def seccomp_filter() -> bytes:
    """A BPF program: threads and no processes, no sockets, and no memory outside the limit of the address space.

    Raises:
        KeyError: the numbers of this machine's system calls are not known.
    """
    architecture, clone, clone3, refused = SYSCALLS[os.uname().machine]
    load, equal, at_least, any_bit, reply = 0x20, 0x15, 0x35, 0x45, 0x06  # LD|W|ABS, JEQ|K, JGE|K, JSET|K, RET|K
    allow, kill, error = 0x7FFF0000, 0x80000000, 0x00050000
    steps = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, architecture),
        (reply, 0, 0, kill),
        (load, 0, 0, 0),  # the number of the system call
        (at_least, 0, 1, 0x40000000),  # x32
        (reply, 0, 0, error | EPERM),
        (equal, 0, 1, clone3),  # its flags cannot be read; libc falls back to clone
        (reply, 0, 0, error | ENOSYS),
        *(step for number in refused for step in ((equal, 0, 1, number), (reply, 0, 0, error | EPERM))),
        (equal, 0, 3, clone),
        (load, 0, 0, 16),  # its flags
        (any_bit, 1, 0, CLONE_THREAD),
        (reply, 0, 0, error | EPERM),
        (reply, 0, 0, allow),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


class FilterProgram(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def prctl(option: int, *args: Any) -> None:
    """Raises: OSError: the system refuses."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, *args) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def confine(limits: dict[str, int], uid: int | None) -> None:
    """Limit this process and all that it forks, for good."""
    for name, most in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def prelude() -> dict[str, Any]:
    """The names that a solution may use without importing them."""
    names: dict[str, Any] = {"exit": sys.exit, "quit": sys.exit}  # which an interpreter has from `site`
    for module in map(__import__, PRELUDE):
        own = vars(module)
        public = own.get("__all__") or [name for name in own if not name.startswith("_")]
        names |= {name: own[name] for name in public} | {module.__name__: module}
    return names


class Solution:
    """A compiled solution, which each test runs in a fork of its own."""

    def __init__(self, source: str, fn_name: str | None) -> None:
        self.code, self.fn_name = compile(source, "solution.py", "exec"), fn_name
        self.names = prelude()
        steps = seccomp_filter()
        self.filter = FilterProgram(len(steps) // 8, steps)

    def run_test(self, test: Any) -> tuple[bool, bytes]:
        """Whether a run has ended with status 0, and its output.

        Args:
            test: the text of standard input, or the arguments.
        """
        output_end, child_output = os.pipe()
        child_input, input_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(output_end)
            os.close(input_end)
            self.run(test, child_input, child_output)
        os.close(child_output)
        os.close(child_input)
        text = b"" if self.fn_name else test.encode(errors="surrogatepass")
        return communicate(child, input_end, output_end, text)

    def run(self, test: Any, child_input: int, child_output: int) -> None:
        """Run in this process, and end it as an interpreter ends: threads, atexit, buffers, and then at once."""
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(child_input, 0)
        os.dup2(nothing if self.fn_name else child_output, 1)
        os.dup2(nothing, 2)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(self.filter))
        sys.stdin, sys.stdout, sys.stderr, sys.argv = open(0), open(1, "w"), open(2, "w"), ["solution.py"]  # noqa: SIM115
        status = 1
        atexit.register(lambda: (sys.stdout.flush(), os._exit(status)))  # the last one that is called
        try:
            self.execute(test, child_output)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise
        status = 0
        sys.exit()

    def execute(self, test: Any, child_output: int) -> None:
        module = types.ModuleType("solution" if self.fn_name else "__main__")
        sys.modules[module.__name__] = module
        vars(module).update(self.names)
        exec(self.code, vars(module))
        if self.fn_name:
            owner = module if hasattr(module, self.fn_name) else module.Solution()
            result = getattr(owner, self.fn_name)(*test)
            with open(child_output, "w") as reply:
                reply.write(json.dumps(result))


def communicate(child: int, input_end: int, output_end: int, text: bytes) -> tuple[bool, bytes]:
    """Write the input and read the output, ``MAX_OUTPUT`` bytes at most, until the fork ends."""
    os.set_blocking(input_end, False)
    os.set_blocking(output_end, False)
    ended, chunks, size, rest = os.pidfd_open(child), list[bytes](), 0, memoryview(text)
    is_running, writes = True, [input_end]
    while is_running and size <= MAX_OUTPUT:
        if not rest and writes:
            os.close(writes.pop())
        readable, writable, _ = select.select([output_end, ended], writes, [])
        is_running = ended not in readable
        if output_end in readable:
            size += read_chunk(output_end, chunks)
            is_running = is_running or len(chunks[-1]) > 0  # there may be more
            if not chunks[-1] and is_running:  # closed, and not ended yet
                select.select([ended], [], [])
                is_running = False
        if writable:
            try:
                rest = rest[os.write(input_end, rest) :]
            except BrokenPipeError:  # it does not read its input
                rest = memoryview(b"")
    os.kill(child, signal.SIGKILL)  # ended already, or endless output
    status = os.waitpid(child, 0)[1]
    for descriptor in (output_end, ended, *writes):
        os.close(descriptor)
    return status == 0 and size <= MAX_OUTPUT, b"".join(chunks)


def read_chunk(descriptor: int, chunks: list[bytes]) -> int:
    chunks.append(os.read(descriptor, 1 << 16))
    return len(chunks[-1])


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    confine(job["limits"], job["uid"])
    solution = Solution(job["source"], job["fn_name"])
    gc.freeze()  # the forks' collectors copy no pages
    for test in job["inputs"]:
        finished, output = solution.run_test(test)
        print(json.dumps({"finished": finished, "output": output.decode(errors="replace")}), flush=True)


if __name__ == "__main__":
    main()
