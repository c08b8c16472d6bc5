"""Two trainers side by side: each in a process of its own, taking steps in turn at the parent's word.

A worker (benchmarks/peers/) builds its trainer, calls ``Gate.arrive`` before every optimizer step and waits there for
a line on stdin. A step lasts from one gate to the next, so all that a trainer's loop does is in it: logging, fetching,
the optimizer. What a worker reports goes through a pipe of its own; what its libraries print goes into a log.

A waiting worker is blocked in a read, and its OpenMP threads sleep: GNU OpenMP spins for some milliseconds after a
parallel region and then waits, so the wait policy is left as users have it, and ``PAUSE_S`` lets the spinning end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

HERE = Path(__file__).parent
SIDES = ("r1", "trl")
WARMUP, LEAST = 1, 2  # pairs: that do not count, that must
PAUSE_S = 0.05
STDERR_TAIL = 3000  # characters shown of a worker that failed
Step = dict[str, float]
"""``seconds``, ``tokens``, and where a trainer can tell them ``rollout`` and ``score``, in seconds."""


@dataclass(frozen=True)
class Job:
    """What a worker is asked to train.

    Attributes:
        model, data: a folder in the Hugging Face format, a .jsonl file.
        output: a folder for what the trainer writes; the worker's own.
        sequences: completions (GRPO), rows or packed blocks (SFT) per optimizer step.
        group, limit: GRPO's completions per prompt and tokens per completion.
        splits: the micro-batches that TRL makes of a step.
        cache: how TRL's ``generate`` keeps keys and values: dynamic, or static (compiled on a GPU).
        lora: the rank of the adapters that both sides train; 0: all weights.
        packing, packed_length: TRL's SFT strategy (none: padded batches of like lengths), tokens per block.
        overrides: r1's config besides what the job says.
    """

    model: str
    data: str
    output: str
    device: str
    threads: int
    sequences: int
    group: int = 1
    limit: int = 8
    splits: int = 1
    cache: str = "dynamic"
    lora: int = 0
    packing: str = "none"
    packed_length: int = 512
    overrides: list[str] = field(default_factory=list)


class WorkerFailed(RuntimeError):
    """A worker ended early; the message holds the end of its log."""


class Worker:
    """The parent's end of one worker: ``python -m peers.<name>``, ended with the ``with`` block."""

    def __init__(self, name: str, job: Job) -> None:
        self.name = name
        read, write = os.pipe()
        Path(job.output).mkdir(parents=True)
        self.log = (Path(job.output) / "worker.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"peers.{name}", json.dumps(asdict(job)), str(write)],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
            pass_fds=[write],
            env=environment(job.threads),
            text=True,
        )
        os.close(write)
        self.reports = os.fdopen(read)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.reports.close()
        self.log.close()

    def report(self) -> Step:
        """The worker's next line."""
        line = self.reports.readline()
        if not line:
            self.log.seek(0)
            raise WorkerFailed(f"{self.name} failed:\n{self.log.read()[-STDERR_TAIL:]}")
        found: Step = json.loads(line)
        return found

    def tell(self, word: str) -> Step:
        """``go``: take a step and report it. ``stop``: report the memory."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone, and the report says why
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
        return self.report()


def environment(threads: int) -> dict[str, str]:
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }


def race(kind: str, jobs: dict[str, Job], most: int, budget_s: float) -> tuple[list[dict[str, Step]], dict[str, Step]]:
    """Pairs of steps after ``WARMUP`` that do not count, and each side's memory at the end.

    Args:
        kind: ``grpo`` or ``sft``.
        jobs: each side's job; they differ in nothing that decides how much there is to do.
        most, budget_s: pairs that count; fewer when the time is up, but not fewer than ``LEAST``.
    """
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(f"{side}_{kind}", jobs[side])) for side in SIDES}
        for worker in workers.values():
            worker.report()  # it stands at its first gate
        end = time.monotonic() + budget_s
        pairs: list[dict[str, Step]] = []
        while len(pairs) < WARMUP + most and (len(pairs) < WARMUP + LEAST or time.monotonic() < end):
            pairs.append(pair(workers, SIDES[:: -1 if len(pairs) % 2 else 1]))
        return pairs[WARMUP:], {side: worker.tell("stop") for side, worker in workers.items()}


def pair(workers: dict[str, Worker], order: Sequence[str]) -> dict[str, Step]:
    """One step of each side, one after the other."""
    steps = {}
    for side in order:
        time.sleep(PAUSE_S)
        steps[side] = workers[side].tell("go")
    return steps


Result = TypeVar("Result")


class Gate:
    """The worker's end. Ends the process (SystemExit) when told to stop."""

    def __init__(self, pipe: int, device: str) -> None:
        self.out, self.device = os.fdopen(pipe, "w"), device
        self.figures: Step = {}
        self.started = 0.0

    def arrive(self) -> None:
        """Report the step that has just ended, wait, and begin the next one."""
        seconds = self.now() - self.started
        if self.started:
            self.send({"seconds": seconds} | self.figures)
        else:
            self.start_mb = memory_mb("VmRSS", self.device)
            self.send({})
        if sys.stdin.readline().strip() != "go":
            self.send({"peak_mb": memory_mb("VmHWM", self.device), "start_mb": self.start_mb})
            sys.exit(0)
        self.figures = {}
        self.started = self.now()

    def now(self) -> float:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def send(self, figures: Step) -> None:
        self.out.write(json.dumps(figures) + "\n")
        self.out.flush()

    def add(self, **figures: float) -> None:
        """Add to the current step's figures."""
        for name, value in figures.items():
            self.figures[name] = self.figures.get(name, 0.0) + value

    def timed(self, name: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """``function``, with its time added to the figure ``name``."""

        def wrapped(*args: Any, **kwargs: Any) -> Result:
            started = self.now()
            result = function(*args, **kwargs)
            self.add(**{name: self.now() - started})
            return result

        return wrapped


def started() -> tuple[Job, Gate]:
    """The job and the gate of this worker, from its command line; torch is told its threads."""
    import torch

    job = Job(**json.loads(sys.argv[1]))
    torch.set_num_threads(job.threads)
    return job, Gate(int(sys.argv[2]), job.device)


def memory_mb(field: str, device: str) -> float:
    """This process's resident memory, now (VmRSS) or at its highest (VmHWM); on a GPU, what torch has held there."""
    if device == "cuda":
        import torch

        read = torch.cuda.max_memory_allocated if field == "VmHWM" else torch.cuda.memory_allocated
        return read() / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
