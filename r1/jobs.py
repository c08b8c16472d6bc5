"""The runs of a sweep as Hydra's launchers call them: in this process one by one, or in others, several at once."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from r1.errors import Interrupted, UserError, one_line
from r1.screen import console
from r1.secrets import redact
from r1.stop import Stop, notices

Execute = Callable[[dict[str, Any], list[str]], Any]


@dataclass(frozen=True)
class Ended:
    """How a run ended; no number, so that no sweeper takes it for a result.

    Attributes:
        code: the exit code that the run would have had alone.
        folder: its record, if it finished.
        error: why it did not, one line.
        here: it ran in the process that started the sweep, and has printed all this.
    """

    code: int
    folder: str | None = None
    error: str = ""
    here: bool = True


class Job:
    """Hydra's task function: one run of a sweep.

    Args:
        execute: runs a config and returns its record's folder.
        argv: the sweep's command line.
        num_runs: of the sweep.
    """

    def __init__(self, execute: Execute, argv: list[str], num_runs: int, stop: Stop) -> None:
        self.execute, self.argv, self.num_runs, self.stop = execute, argv, num_runs, stop
        self.here = True

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"here": False}  # what is packed up runs in another process

    def __call__(self, cfg: DictConfig) -> Ended:
        config = {str(key): value for key, value in OmegaConf.to_container(cfg, resolve=True).items()}  # type: ignore[union-attr]
        return self._here(config) if self.here else self._elsewhere(config)

    def _here(self, config: dict[str, Any]) -> Ended:
        try:
            with self.stop.inside():
                ended = attempt(self.execute, config, task_overrides())
        except Interrupted as stop:  # only a signal keeps the other runs of a sweep from theirs
            sys.exit(stop.code)
        if ended.folder:
            print(ended.folder, flush=True)
        return ended

    def _elsewhere(self, config: dict[str, Any]) -> Ended:
        job = HydraConfig.get().job
        stopped = Path(HydraConfig.get().runtime.output_dir) / f"{job.id}.stopped"  # where a cluster lets it go on
        sys.argv = self.argv
        if self.stop.near and not config["threads"]:  # before torch looks: the runs share the cores
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.num_runs)))
        with tagged(f"[{job.num}] "), self.stop.passed_on(), notices() as notice:
            if notice.expected and stopped.is_file():
                config |= {"output_dir": stopped.read_text(), "resume": "auto"}
            try:
                self.stop.check()
                ended = attempt(self.execute, config, task_overrides())
            except Interrupted as stop:
                if notice.expected and stop.folder:
                    stopped.write_text(stop.folder)
                notice.pass_on()
                return Ended(stop.code, error=f"stopped by {stop}, {stop.folder or 'before it began'}", here=False)
        stopped.unlink(missing_ok=True)
        return replace(ended, here=False)


def attempt(execute: Execute, config: dict[str, Any], overrides: list[str]) -> Ended:
    """One run; whatever goes wrong is printed.

    Raises:
        Interrupted: a signal stopped it.
    """
    try:
        folder = execute(config, overrides)
    except UserError as error:
        if not console.quiet:
            print(f"r1: {error}", file=sys.stderr)
        return Ended(error.code, error=one_line(str(error)))
    except Interrupted:
        raise
    except Exception as error:  # a bug; Hydra would add a line with all overrides
        print(redact(traceback.format_exc()), file=sys.stderr)
        return Ended(1, error=one_line(f"{type(error).__name__}: {error}"))
    return Ended(0, str(folder) if folder else None)


def task_overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Tagged(io.TextIOBase):
    """A stream whose lines begin with a tag, written whole, so that those of several runs do not mix."""

    def __init__(self, stream: TextIO, tag: str) -> None:
        self.stream, self.tag, self.rest = stream, tag, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        if lines:
            self.stream.write("".join(f"{self.tag}{line}\n" for line in lines))
            self.stream.flush()
        return len(text)


@contextmanager
def tagged(tag: str) -> Iterator[None]:
    """stderr with a tag before every line."""
    stream = Tagged(sys.stderr, tag)
    with redirect_stderr(stream):
        try:
            yield
        finally:
            if stream.rest:
                stream.write("\n")
