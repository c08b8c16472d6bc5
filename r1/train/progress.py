"""What a person sees: one line that moves in a terminal, plain lines in a pipe, samples, and a closing table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from r1.core.console import console, status_line, strip_control_chars
from r1.core.metrics import METRICS, primary_metric
from r1.core.progress_counter import PLAIN_INTERVAL_S

if TYPE_CHECKING:
    from r1.core.statistics import Estimate
    from r1.train.run_state import RunState

SHOWN = sorted((m for m in METRICS if m.progress), key=lambda metric: metric.name.startswith("val/"))  # training first
CORRECT_LABELS = {True: "[green]right[/]", False: "[red]wrong[/]", None: "[blue]open [/]"}


class Progress(Callback):
    """Step, reward, pass@1, tokens/s and the time left."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.tokens, self.last_line, self.started = 0.0, 0.0, time.monotonic()
        self.asked = self.accepted = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.open("step", trainer.max_steps, trainer.global_step)

    def open(self, unit: str, total: int, done: int) -> None:
        self.started = time.monotonic()
        if console.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self.bar = Bar(TextColumn(unit), *columns, console=console)
            self.bar.add_task("", total=total, completed=done)
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.tokens += float(getattr(batch, "num_tokens", 0))
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.show("step", trainer.max_steps, trainer.global_step, self.line(trainer))

    def show(self, unit: str, total: int, done: int, line: str) -> None:
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=done, description=line)
        elif time.monotonic() - self.last_line > PLAIN_INTERVAL_S or done == total:
            self.last_line = time.monotonic()
            console.print(f"{unit} {done}/{total}  {line}")

    def line(self, trainer: L.Trainer) -> str:
        metrics = trainer.callback_metrics
        shown = [f"{one.label} {float(metrics[one.name]):.3f}" for one in SHOWN if one.name in metrics]
        return "  ".join([*shown, f"{self.tokens * trainer.world_size / (time.monotonic() - self.started):,.0f} tok/s"])

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        console.print(validation_line(trainer.global_step, module.validator.metrics))
        for sample in module.validator.shown_samples:
            text = escape(strip_control_chars(sample.completion)[:160])
            console.print(f"   {CORRECT_LABELS[sample.correct]}  {text}")

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.bar:
            self.bar.stop()

    def on_predict_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.open("batch", int(sum(trainer.num_predict_batches)), 0)

    def on_predict_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.show("batch", int(sum(trainer.num_predict_batches)), batch_idx + 1, self.kept(outputs))

    def kept(self, outputs: dict[str, Any]) -> str:
        """So far; ``outputs`` are the answers that have just come in."""
        answers = [answer for group in outputs["answers"] for answer in group]
        self.asked += len(answers)
        self.accepted += sum(answer["rejected_by"] is None for answer in answers)
        return f"{self.accepted} of {self.asked} answers accepted"

    def on_predict_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.on_train_end(trainer, module)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if self.bar:
            self.bar.stop()

    @staticmethod
    def closing(record: RunState) -> RenderableType:
        """Before and after, with intervals, and where everything lies."""
        columns = (Column("metric", overflow="fold"), "before", "after", "n")
        table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for name, after in record.final.items():
            before = record.start.get(name)
            table.add_row(escape(name), str(before) if before else "", str(after), str(after.n))
        return Group(table, status_line(f"record: {record.dir}"))


def validation_line(step: int, figures: dict[str, Estimate]) -> str:
    name = primary_metric(figures)
    shown = f"{name.removeprefix('val/')} {figures[name]!s}, n={figures[name].n}"
    if length := figures.get("val/completion_length"):
        shown += f", mean length {length.value:.1f} tokens"
    return f"[bold]validation[/] at step {step}: {shown}"
