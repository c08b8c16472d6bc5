"""A server process that imports everything once and forks a child for each run of r1, which saves seconds per run.

It reads requests on stdin, one line of JSON each, and writes one line of JSON for each finished run. It never trains
itself: torch refuses a backward pass in the child of a process that has made one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial, partialmethod
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from killpoints import Point, arm, fill_the_disk

TIMEOUT_S = 120.0
GRPO = ["stage=grpo", "stage.group_size=4", "stage.micro_batch_size=4"]
ON_POLICY = ["stage=distill_on_policy", "stage.group_size=2", "stage.micro_batch_size=4"]
MODEL_TEACHER = ["teacher=transformers", "teacher.path=r1:tiny_xs", "teacher.dtype=float32"]
LORA = ["+model/lora=default", "model.lora.r=2"]
KINDS = {  # the runs of the tests: six steps, a validation every two
    "sft": ["stage=sft", "stage.micro_batch_size=2", "stage.warmup_steps=2", "stage.lr=0.01"],
    "lora": [
        "stage=sft",
        *LORA,
        "stage.micro_batch_size=2",
        "stage.warmup_steps=2",
        "stage.lr=0.01",
        "keep_checkpoints=1",
    ],
    "distill": ["stage=distill", "stage.micro_batch_size=2", "stage.num_questions=24", "stage.answers_per_question=2"],
    "grpo": [*GRPO, "stage.num_iterations=2"],
    "kl": [*GRPO, "stage.kl_coef=0.1", "stage.ref_sync_every=2", "stage.ref_sync_mix=0.5", "stage.lr=0.01"],
    "logits": ["stage=distill_logits", "stage.micro_batch_size=2", *MODEL_TEACHER],
    "on_policy": [*ON_POLICY, "stage.num_iterations=2", *MODEL_TEACHER],
    "direct": [
        "stage=distill_direct",
        "stage.micro_batch_size=2",
        "stage.num_questions=24",
        "stage.max_question_length=8",
        "stage.single_line=false",  # it ends at the next 1, which random weights soon write
        "data/template=r1_zero",
        "data.template.text='Q: {prompt}1'",
        "data._target_=conftest.any_sums",
    ],
    "eval": ["stage=eval"],
    "reject": [
        "stage=rejection_sampling",
        "stage.num_questions=12",
        "stage.answers_per_question=3",
        "stage.questions_at_once=4",
        *(f"~stage.filters.{name}" for name in ("finished", "verifier", "format", "language")),
    ],
    "ahead": [*GRPO, "rollout.async_steps=1", "stage.lr=0.01"],
    "resample": [*GRPO, "stage.group_size=2", "stage.micro_batch_size=2", "stage.zero_variance=resample"],
    "minibatches": [*GRPO, "stage.steps_per_rollout=3", "stage.lr=0.003"],
}


def knobs(kind: str, *overrides: str) -> list[str]:
    """The overrides of a kind; the last one of each key counts."""
    from conftest import DENSE, SMALL

    overrides_with_repeats = [
        *SMALL,
        *DENSE,
        "threads=1",
        "checkpoint_every=1",
        "val.num_prompts=4",
        *KINDS[kind],
        *overrides,
    ]
    options = {option.partition("=")[0]: option for option in overrides_with_repeats}
    trains = kind not in ("eval", "reject")
    return [option for key, option in options.items() if trains or option not in SMALL or not key.startswith("stage.")]


@dataclass(frozen=True)
class Request:
    """One run of ``overrides`` into ``folder``.

    Attributes:
        overrides: the command line without ``output_dir`` and ``resume``; composed once.
        folder: the record's; the output of the run goes into ``<folder>.log``.
        resume: continue the run in ``folder``.
        delay: seconds after which the server kills it with SIGKILL.
        point: where it sends itself a signal.
        full: the first and the last attempt at a checkpoint for which the disk is full.
        env: additional environment variables.
        rank: with several devices, the rank that ``point`` and ``full`` apply to.
    """

    overrides: list[str]
    folder: str
    resume: bool = False
    delay: float | None = None
    point: dict[str, Any] | None = None
    full: tuple[int, int] | None = None
    env: dict[str, str] = field(default_factory=dict)
    rank: int | None = None


@dataclass(frozen=True)
class Ended:
    """The exit status of a run, negative for a signal, its duration, and its end as ``time.monotonic()``."""

    code: int
    seconds: float
    at: float


class ForkServer:
    """The client, in the process of the tests."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONWARNINGS": "ignore",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )

    def run(self, overrides: Sequence[str], folder: Path, point: Point | None = None, **more: Any) -> Ended:
        request = Request(list(overrides), str(folder), point=asdict(point) if point else None, **more)
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(asdict(request)), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, "the fork server is dead: see its stderr"
        return Ended(**json.loads(answer))

    def close(self) -> None:
        self.process.communicate()


class UninterruptedRuns:
    """``runs("grpo")``: the folder of an uninterrupted run of that kind, and its result; each is run once."""

    def __init__(self, server: ForkServer, base: Path) -> None:
        self.server, self.base, self.runs = server, base, dict[str, tuple[Path, Ended]]()

    def __call__(self, kind: str) -> tuple[Path, Ended]:
        if kind not in self.runs:
            self.runs[kind] = self.base / kind, self.server.run(knobs(kind), self.base / kind)
        folder, ended = self.runs[kind]
        assert ended.code == 0, log(folder)
        return folder, ended


def log(folder: Path) -> str:
    """The output of the runs into ``folder``."""
    return folder.with_name(f"{folder.name}.log").read_text()


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warm_up()
    for line in sys.stdin:
        request = Request(**json.loads(line))
        config = composed(*request.overrides) | {"output_dir": request.folder}
        config["resume"] = "auto" if request.resume else None
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            run(request, config)
        code, ended = exit_status(child, request.delay), time.monotonic()
        print(json.dumps(asdict(Ended(code, ended - started, ended))), file=answers, flush=True)


def warm_up() -> None:
    """Import all modules that a run needs, and check a config of each kind, which loads no weights."""
    import torch

    torch.set_num_threads(1)
    from conftest import random_model

    from r1.core.provenance import code_hash
    from r1.run import execute
    from r1.stage.base import Stage

    for module in ("r1.train.fit", "r1.train.trainer", "r1.train.rank", "r1.stage.rl.reference"):
        import_module(module)
    Stage.validation_step = partialmethod(rising, Stage.validation_step)  # type: ignore[assignment]
    with TemporaryDirectory() as folder:
        random_model().save_pretrained(folder)
    code_hash("conftest")  # cached: the children run the code that is in memory now, even if a file is edited meanwhile
    for kind in KINDS:
        execute(composed(*knobs(kind)) | {"dry_run": True}, [])


@cache
def composed(*overrides: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from r1.config.compose import compose_points
    from r1.config.overrides import parse_command_line

    (point,) = compose_points(*parse_command_line(list(overrides)))
    return point.config if isinstance(point.config, dict) else OmegaConf.to_container(point.config, resolve=True)


def rising(self: Any, validation_step: Callable[..., None], *args: Any) -> None:
    """Replace pass@1 so that the second and the last validation are the best so far; random weights may not improve."""
    validation_step(self, *args)
    share = {2: 0.6, 4: 0.4, 6: 0.8}.get(self.trainer.global_step, 0.2)
    metrics = self.validator.metrics
    metrics["val/pass@1"] = replace(metrics["val/pass@1"], value=share)


def run(request: Request, config: dict[str, Any]) -> None:
    """The child: runs a composed config as ``python -m r1.run`` does, and exits with its code."""
    log = os.open(f"{request.folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= request.env
    from r1.distributed import launcher

    code = 1
    try:
        if request.rank is None:
            inject_faults(request)
        launcher.start_rank = partial(Forked, request)  # type: ignore[assignment]
        code = executed(config)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def inject_faults(request: Request) -> None:
    if request.point:
        arm(Point(**request.point))
    if request.full:
        fill_the_disk(*request.full)


class Forked:
    """Replaces the launcher's child process: ``python -m r1.train.rank``, forked, so that it imports nothing again."""

    def __init__(self, request: Request, task: str, environment: dict[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            os.environ |= environment
            self._run(request, json.loads(task))

    def _run(self, request: Request, task: dict[str, Any]) -> None:
        from r1.train import rank

        code = 1
        try:
            if str(request.rank) == os.environ["RANK"]:
                inject_faults(request)
            code = rank.exit_code_of(task)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self) -> int | None:
        return self._reap(0)

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    @property
    def exit_code(self) -> int:
        assert self.returncode is not None
        return 128 - self.returncode if self.returncode < 0 else self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def executed(config: dict[str, Any]) -> int:
    from r1.core.console import print_error
    from r1.core.errors import Interrupted, UserError
    from r1.run import execute

    try:
        execute(config, [])
    except UserError as error:
        return print_error(error)
    except Interrupted as stop:
        return stop.code
    return 0


def exit_status(child: int, delay: float | None) -> int:
    """Wait for the child and return its exit status; it is killed after ``delay`` seconds, or ``TIMEOUT_S``."""
    descriptor = os.pidfd_open(child)
    readable, _, _ = select.select([descriptor], [], [], TIMEOUT_S if delay is None else delay)
    if not readable:
        os.kill(child, signal.SIGKILL)
    os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    serve()
