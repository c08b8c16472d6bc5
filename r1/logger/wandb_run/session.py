"""The W&B run owned by the worker process. W&B's undocumented settings and methods are used here only."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import wandb

from r1.logger.wandb_run.artifacts import log_model, use_parent_models
from r1.logger.wandb_run.history import RecordReader
from r1.logger.wandb_run.job import RunEnd, WandbJob

TABLE = "completions"  # key of a validation's samples in the history
PROBE_BYTES = 1 << 16
# W&B must not collect these: the record has the command, the code, the packages and the machine, without secrets.
PRIVATE: dict[str, Any] = {
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_save_requirements": False,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "console": "off",
    "host": "",
    "program": "r1.run",
}


class Session:
    """An open W&B run.

    Offline, its folder gets the complete history; online, the server gets the rows that it lacks. Folders of earlier
    sessions of the same run are removed, so that ``wandb sync`` uploads each row once.
    """

    def __init__(self, job: WandbJob, run_id: str) -> None:
        self.job, self.folder = job, Path(job.folder)
        self.online = job.mode != "offline"
        top = Path(os.environ.get("WANDB_DIR") or job.folder)
        self.run = wandb.init(
            id=run_id,
            dir=str(top),
            mode=job.mode,  # type: ignore[arg-type]
            resume="allow" if self.online else None,  # a synced offline folder replaces the server's history
            config=job.config,
            project=job.project,
            entity=job.entity,
            group=job.group,
            name=job.name,
            tags=job.tags,
            settings=wandb.Settings(
                **PRIVATE,
                silent=True,
                x_stats_pid=os.getppid(),
                init_timeout=job.start_timeout,
            ),
        )
        self.run.define_metric("*", step_metric="step")
        self.record, self.num_rows_at_server = RecordReader(self.folder), self.run.starting_step
        self.old_dirs = [path for path in top.glob(f"wandb/*run-*-{run_id}*") if path != self.run_dir]
        link = job.log_model and self.online  # offline, the client refuses to link
        self.artifact_errors = use_parent_models(self.run, self.folder) if link else []

    @property
    def run_dir(self) -> Path:
        return Path(self.run.dir).parent

    @property
    def sync_hint(self) -> str:
        return f"`{shlex.join(['wandb', 'sync', str(self.run_dir)])}` uploads it later"

    @property
    def location(self) -> str:
        return str(self.run.url) if self.online else f"offline; {self.sync_hint}"

    def send_new_rows(self) -> None:
        """Log the rows that the record has and W&B has not."""
        for index, row, completions in self.record.new_rows():
            table = _table(completions) if completions else None
            if index >= self.num_rows_at_server:
                self.run.log(row | ({TABLE: table} if table else {}), step=index, commit=True)
            elif table:  # the server has the row, but its table may have been lost with an earlier session
                table.bind_to_run(self.run, TABLE, index)  # type: ignore[no-untyped-call]
        while self.old_dirs:
            shutil.rmtree(self.old_dirs.pop(), ignore_errors=True)

    def finish(self, run_end: RunEnd) -> None:
        """Raises: OSError: W&B's folder cannot be written, so it may be incomplete."""
        if run_end.error or self.num_rows_at_server:  # also clears the error of an earlier session
            self.run.summary["error"] = run_end.error
        if self.job.log_model and not run_end.exit_code:
            log_model(self.run, self.folder)
        if run_end.exit_code > 128:
            self.run.mark_preempting()  # stopped by a signal: the run can be resumed
        self.run.finish(exit_code=run_end.exit_code)
        wandb.teardown()  # its own process writes in the background; this waits until it has ended
        if not self.online:
            check_writable(self.run_dir)


def check_writable(folder: Path) -> None:
    """W&B does not report that it could not write a file. A full disk is still full, so another write fails too."""
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(f"{folder} is incomplete: {error.strerror}") from None


def _table(completions: list[dict[str, Any]]) -> wandb.Table:
    columns: list[str | int] = list(dict.fromkeys(key for row in completions for key in row))
    data = [[row.get(str(column)) for column in columns] for row in completions]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)
