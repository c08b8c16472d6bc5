"""The runs of a sweep as jobs of Hydra's launchers: one by one in this process, or several at once in workers."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf

from r1.config.hydra_adapter import HydraConfig
from r1.core.errors import Interrupted, UserError, one_line
from r1.core.screens import keep_screens
from r1.core.secrets import redact
from r1.core.storage import storage_errors
from r1.distributed.process import shared_cores
from r1.distributed.signals import PreemptionNotice, SweepStopSignal, preemption_notice

Execute = Callable[[dict[str, Any], list[str]], Any]


@dataclass(frozen=True)
class JobResult:
    """Result of one Hydra job. Not a float: a sweeper would treat that as the objective.

    Attributes:
        code: the exit code that the run would have alone.
        folder: its record, if it finished.
        error: why it did not finish, one line.
        in_worker: it ran in another process than the sweep's, which has yet to print its result.
    """

    code: int
    folder: str | None = None
    error: str = ""
    in_worker: bool = False


class HydraJob:
    """Hydra's task function: one run of a sweep.

    Args:
        execute: runs a config and returns its record's folder.
        argv: the sweep's command line.
        num_runs: of the sweep.
    """

    def __init__(self, execute: Execute, argv: list[str], num_runs: int, stop: SweepStopSignal) -> None:
        self.execute, self.argv, self.num_runs, self.stop = execute, argv, num_runs, stop
        self.in_worker, self.out = False, sys.stdout  # while launchers run, sys.stdout is redirected: they write to it

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"in_worker": True, "out": None}  # a job is pickled to run in a worker

    def __call__(self, cfg: DictConfig) -> JobResult:
        config = {str(key): value for key, value in OmegaConf.to_container(cfg, resolve=True).items()}  # type: ignore[union-attr]
        return self._run_in_worker(config) if self.in_worker else self._run_in_process(config)

    def _run_in_process(self, config: dict[str, Any]) -> JobResult:
        try:
            with self.stop.run_in_process():
                result = run_and_report_errors(self.execute, config, task_overrides())
        except Interrupted as stop:  # a failed run does not end the sweep; a signal does
            sys.exit(stop.code)
        if result.folder:
            print(result.folder, file=self.out, flush=True)
        return result

    def _run_in_worker(self, config: dict[str, Any]) -> JobResult:
        sys.argv = self.argv
        keep_screens()
        if self.stop.is_same_machine and not config["threads"]:
            os.environ.update(shared_cores(self.num_runs))  # before torch is imported and reads it
        with (
            PrefixedStream(sys.stderr, f"[{HydraConfig.get().job.num}] ") as stderr,
            redirect_stderr(stderr),
            self.stop.forward_signals(),
            preemption_notice() as notice,
        ):
            result = self._run_or_resume(config, notice)
        if self.stop.parent_is_dead:  # a joblib worker would wait for more work for ever
            os._exit(result.code)
        return result

    def _run_or_resume(self, config: dict[str, Any], notice: PreemptionNotice) -> JobResult:
        """A run in a worker; where its cluster has preempted it before, it resumes in the same record."""
        stopped = Path(HydraConfig.get().runtime.output_dir) / f"{HydraConfig.get().job.id}.stopped"
        if notice.expected and stopped.is_file():
            config |= {"output_dir": stopped.read_text(), "resume": "auto"}
        try:
            self.stop.check()
            result = run_and_report_errors(self.execute, config, task_overrides())
        except Interrupted as stop:
            if notice.expected and stop.folder:
                stopped.write_text(stop.folder)
            if notice.requeue:
                notice.requeue()
            return JobResult(
                stop.code, error=f"stopped by {stop}, {stop.folder or 'before it started'}", in_worker=True
            )
        stopped.unlink(missing_ok=True)
        return replace(result, in_worker=True)


def run_and_report_errors(execute: Execute, config: dict[str, Any], overrides: list[str]) -> JobResult:
    """One run; its errors are printed.

    Raises:
        Interrupted: a signal stopped it.
    """
    try:
        with storage_errors():
            folder = execute(config, overrides)
    except UserError as error:
        from r1.core.console import print_error  # slow to import

        return JobResult(print_error(error), error=one_line(str(error)))
    except Interrupted:
        raise
    except Exception as error:  # a bug; raised, Hydra would print it with a line of all overrides
        print(redact(traceback.format_exc()), file=sys.stderr)
        return JobResult(1, error=one_line(f"{type(error).__name__}: {error}"))
    return JobResult(0, str(folder) if folder else None)


def task_overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task)


class PrefixedStream(io.TextIOBase):
    """Writes complete lines only, each with a prefix, so that the lines of concurrent runs do not mix."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self.stream, self.prefix, self.rest = stream, prefix, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        if lines:
            self.stream.write("".join(f"{self.prefix}{line}\n" for line in lines))
            self.stream.flush()
        return len(text)

    def close(self) -> None:
        if self.rest:
            self.write("\n")
        super().close()
