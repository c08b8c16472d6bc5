"""One step as a process of its own, ``python -m r1.run``, as anyone could type it; it dies with its pipeline."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

from r1.errors import one_line
from r1.pipeline.node import Node
from r1.pipeline.steps import escaped

LOG = "output.log"
PR_SET_PDEATHSIG = 1
AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID")  # of a sweep: its one run is the step with the result


class Process:
    """Starts a node's run; what it prints is appended to ``output.log`` in its record.

    Args:
        flags: of the pipeline's command line (``--config-dir``).
        is_result: whether a W&B sweep that runs the pipeline is to see this step's figures.
    """

    def __init__(self, node: Node, flags: list[str], is_result: bool) -> None:
        self.node, self.started = node, time.monotonic()
        node.folder.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        with (node.folder / LOG).open("ab") as log:
            self._log_size = log.tell()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "r1.run", *flags, *command(node)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if is_result or name not in AGENT},
                process_group=0,  # a terminal's ^C comes to the pipeline alone, which passes it on once
                preexec_fn=lambda: die_with(parent),
            )
        self.send, self.kill = self._child.send_signal, self._child.kill

    @property
    def ended(self) -> bool:
        return self._child.poll() is not None

    @property
    def code(self) -> int:
        """The exit code as a shell reports it: 128 + the signal that killed it; never 0 for a run that is not done."""
        code = self._child.returncode
        return 128 - code if code < 0 else code or 1

    @property
    def wall_s(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def last_words(self) -> str:
        """The error that ends what it has printed, one line."""
        with (self.node.folder / LOG).open("rb") as log:
            log.seek(self._log_size)
            text = log.read().decode(errors="replace")
        return last_words(text)


def command(node: Node) -> list[str]:
    """The overrides of a node's own process, which anyone may type as well."""
    return [*node.overrides, f"output_dir={escaped(str(node.folder))}", "resume=auto"]


def die_with(parent: int) -> None:
    """Between fork and exec: be killed when the parent is (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def last_words(text: str) -> str:
    """The first line of the UserError that ends a text, or the text's last line."""
    error = f"\n{text}".rpartition("\nr1: ")[2] if "\nr1: " in f"\n{text}" else text.strip().rpartition("\n")[2]
    return one_line(error.partition("\n")[0])
