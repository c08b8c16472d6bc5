"""``python -m r1.run ARGV`` and the other commands, forked from a process that has imported everything.

Each is a process with its own arguments, folder, environment, screens and exit code; only its imports are saved.
``python -S commands.py SOCKET MODULE ARGV`` stands for ``python -m MODULE ARGV``, also where a pipeline starts a step
or a sweep a point.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path


class Commands:
    """The client, in the process of the tests: ``commands("r1.run", *argv, cwd=folder)``.

    Args:
        address: of the socket that the server will listen at.
    """

    def __init__(self, address: Path) -> None:
        self.address = address
        self.process = subprocess.Popen([sys.executable, __file__, str(address)], stdout=subprocess.PIPE)
        assert self.process.stdout
        assert self.process.stdout.readline(), "the server is dead: see its stderr"

    def __call__(self, module: str, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", __file__, str(self.address), module, *argv]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def request(address: str, argv: list[str]) -> int:
    """Have the server run a command with this process's folder, environment and screens; returns its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        message = json.dumps({"argv": argv, "cwd": os.getcwd(), "env": dict(os.environ)}).encode()
        socket.send_fds(connection, [len(message).to_bytes(4, "big")], [1, 2])
        connection.sendall(message)
        return int(connection.recv(16) or b"1")


def serve(address: str) -> str:
    """Accept commands for ever; returns the module to run, in the process that was forked for it."""
    warm_up(address)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                if os.fork() == 0 and (module := receive(connection)):
                    return module


def receive(connection: socket.socket) -> str | None:
    """Become the command of a request; in the process that waits for it, send its exit code."""
    size, screens, _, _ = socket.recv_fds(connection, 4, 2)
    message = b""
    while len(message) < int.from_bytes(size, "big"):
        message += connection.recv(1 << 16)
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.sendall(str(128 - code if code < 0 else code).encode())
        os._exit(0)
    for number, screen in enumerate((os.open(os.devnull, os.O_RDONLY), *screens)):
        os.dup2(screen, number)
    wanted = json.loads(message)
    os.environ.clear()
    os.environ |= wanted["env"]
    os.chdir(wanted["cwd"])
    module: str = wanted["argv"][0]
    sys.argv[1:] = wanted["argv"][1:]
    sys.path.insert(0, wanted["cwd"])
    return module


def run(module: str) -> None:
    """``python -m MODULE``, without the end of an interpreter, which would copy all of the server's memory."""
    code: object = 0
    sys.modules.pop(module, None)  # it becomes __main__
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def warm_up(address: str) -> None:
    """Import what the commands need, and build a tiny model, which imports its architecture."""
    from importlib import import_module

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from r1.distributed import process

    process.kill_on_parent_death(os.getppid())
    torch.set_num_threads(1)
    for name in ("run", "compare", "reproduce", "report", "sweep", "train.fit", "train.trainer", "stage.rl.reference"):
        import_module(f"r1.{name}")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=8, **sizes))
    process.RUN = [sys.executable, "-S", __file__, address, "r1.run"]


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(request(sys.argv[1], sys.argv[2:]))
    run(serve(sys.argv[1]))
