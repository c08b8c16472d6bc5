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

from omegaconf import DictConfig, OmegaConf

from r1.config.hydra_adapter import HydraConfig
from r1.core.errors import Interrupted, UserError, one_line
from r1.core.secrets import redact
from r1.distributed.process import shared_cores
from r1.distributed.signals import PreemptionNotice, SweepStopSignal, notices

Execute = Callable[[dict[str, Any], list[str]], Any]


@dataclass(frozen=True)
class JobResult:
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

    def __init__(self, execute: Execute, argv: list[str], num_runs: int, stop: SweepStopSignal) -> None:
        self.execute, self.argv, self.num_runs, self.stop = execute, argv, num_runs, stop
        self.here, self.out = True, sys.stdout  # launchers write on stdout, too: theirs is another while they run

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"here": False, "out": None}  # what is packed up runs in another process

    def __call__(self, cfg: DictConfig) -> JobResult:
        config = {str(key): value for key, value in OmegaConf.to_container(cfg, resolve=True).items()}  # type: ignore[union-attr]
        return self._run_in_process(config) if self.here else self._run_in_worker(config)

    def _run_in_process(self, config: dict[str, Any]) -> JobResult:
        try:
            with self.stop.run_in_process():
                ended = run_and_report_errors(self.execute, config, task_overrides())
        except Interrupted as stop:  # only a signal keeps the other runs of a sweep from theirs
            sys.exit(stop.code)
        if ended.folder:
            print(ended.folder, file=self.out, flush=True)
        return ended

    def _run_in_worker(self, config: dict[str, Any]) -> JobResult:
        sys.argv = self.argv
        if self.stop.is_same_machine and not config["threads"]:  # before torch looks: the runs share the cores
            os.environ.update(shared_cores(self.num_runs))
        with tagged(f"[{HydraConfig.get().job.num}] "), self.stop.passed_on(), notices() as notice:
            ended = self._noticed(config, notice)
        if (
            self.stop.parent_is_dead
        ):  # nobody waits for the result; joblib's processes would wait for more work for ever
            os._exit(ended.code)
        return ended

    def _noticed(self, config: dict[str, Any], notice: PreemptionNotice) -> JobResult:
        """A run in another process, which goes on in its record where a cluster has stopped it before."""
        stopped = Path(HydraConfig.get().runtime.output_dir) / f"{HydraConfig.get().job.id}.stopped"
        if notice.expected and stopped.is_file():
            config |= {"output_dir": stopped.read_text(), "resume": "auto"}
        try:
            self.stop.check()
            ended = run_and_report_errors(self.execute, config, task_overrides())
        except Interrupted as stop:
            if notice.expected and stop.folder:
                stopped.write_text(stop.folder)
            notice.pass_on()
            return JobResult(stop.code, error=f"stopped by {stop}, {stop.folder or 'before it began'}", here=False)
        stopped.unlink(missing_ok=True)
        return replace(ended, here=False)


def run_and_report_errors(execute: Execute, config: dict[str, Any], overrides: list[str]) -> JobResult:
    """One run; whatever goes wrong is printed.

    Raises:
        Interrupted: a signal stopped it.
    """
    try:
        folder = execute(config, overrides)
    except UserError as error:
        from r1.core.console import console  # which takes its time

        if not console.quiet:
            print(f"r1: {error}", file=sys.stderr)
        return JobResult(error.code, error=one_line(str(error)))
    except Interrupted:
        raise
    except Exception as error:  # a bug; Hydra would add a line with all overrides
        print(redact(traceback.format_exc()), file=sys.stderr)
        return JobResult(1, error=one_line(f"{type(error).__name__}: {error}"))
    return JobResult(0, str(folder) if folder else None)


def task_overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task)


class PrefixedStream(io.TextIOBase):
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
    stream = PrefixedStream(sys.stderr, tag)
    with redirect_stderr(stream):
        try:
            yield
        finally:
            if stream.rest:
                stream.write("\n")
