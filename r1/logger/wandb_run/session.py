"""A courier's W&B run: opened, told what the record holds, closed."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb

from r1.logger.wandb_run.artifacts import log_model, use_parents
from r1.logger.wandb_run.history import Rows
from r1.logger.wandb_run.run_file import wait_until_complete

if TYPE_CHECKING:
    from r1.logger.wandb_run.worker import WandbJob

TABLE = "completions"  # of a validation, its key in the history
PRIVATE: dict[
    str, Any
] = {  # what W&B would collect by itself: the record has the command, the code, the packages and the machine
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
    """An open run of W&B.

    Offline it holds the whole history, online what the server lacks of it; what earlier sessions of the same run left
    on this machine is removed, so that ``wandb sync`` of what is there gives each row once.
    """

    def __init__(self, order: WandbJob, run_id: str) -> None:
        self.order, self.folder = order, Path(order.folder)
        self.online = order.mode != "offline"
        top = Path(os.environ.get("WANDB_DIR") or order.folder)
        self.run = wandb.init(
            id=run_id,
            dir=str(top),
            mode=order.mode,  # type: ignore[arg-type]
            resume="allow" if self.online else None,  # a whole history replaces what the server has of it
            config=order.config,
            project=order.project,
            entity=order.entity,
            group=order.group,
            name=order.name,
            tags=order.tags,
            settings=wandb.Settings(
                **PRIVATE,
                silent=True,
                x_stats_pid=os.getppid(),
                init_timeout=order.start_timeout,
            ),
        )
        self.run.define_metric("*", step_metric="step")
        self.rows, self.num_held = Rows(self.folder), self.run.starting_step
        self.older = [d for d in top.glob(f"wandb/*run-*-{run_id}*") if d != self.place_on_disk]
        link = order.log_model and self.online  # offline, W&B cannot
        self.refused = use_parents(self.run, self.folder) if link else []

    @property
    def place_on_disk(self) -> Path:
        return Path(self.run.dir).parent

    @property
    def sync_hint(self) -> str:
        return f"`{shlex.join(['wandb', 'sync', str(self.place_on_disk)])}` sends it later"

    @property
    def place(self) -> str:
        return str(self.run.url) if self.online else f"offline; {self.sync_hint}"

    def send(self) -> None:
        """Everything that the record has and W&B has not."""
        for number, row, completions in self.rows.new():
            table = _table(completions) if completions else None
            if number >= self.num_held:
                self.run.log(row | ({TABLE: table} if table else {}), step=number, commit=True)
            elif table:  # the row is there; its table may have been on its way
                table.bind_to_run(self.run, TABLE, number)  # type: ignore[no-untyped-call]
        while self.older:
            shutil.rmtree(self.older.pop(), ignore_errors=True)

    def finish(self, exit_code: int, error: str | None) -> None:
        if error or self.num_held:  # what an earlier session ended with is over
            self.run.summary["error"] = error
        if self.order.log_model and not exit_code:
            log_model(self.run, self.folder)
        if exit_code > 128:
            self.run.mark_preempting()  # stopped from outside: it can go on
        self.run.finish(exit_code=exit_code)
        if not self.online and not wait_until_complete(self.place_on_disk / f"run-{self.run.id}.wandb"):
            raise OSError(f"{self.place_on_disk} could not take everything")


def _table(completions: list[dict[str, Any]]) -> wandb.Table:
    columns: list[str | int] = list(dict.fromkeys(key for line in completions for key in line))
    data = [[line.get(str(column)) for column in columns] for line in completions]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)
