"""The progress of a run on the screen: a bar in a terminal, plain lines in a pipe, samples, and a final table."""

from __future__ import annotations

import time
from collections.abc import Mapping
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
from r1.core.metrics import METRICS, primary_metric, sharpening
from r1.core.progress_counter import PLAIN_INTERVAL_S

if TYPE_CHECKING:
    from r1.core.statistics import Estimate
    from r1.train.run_state import RunState

PROGRESS_METRICS = sorted((metric for metric in METRICS if metric.progress), key=lambda m: m.name.startswith("val/"))
CORRECT_LABELS = {True: "[green]right[/]", False: "[red]wrong[/]", None: "[blue]open [/]"}


class Progress(Callback):
    """Shows the step, the main metrics, tokens/s and the time left.

    Attributes:
        bar: in a terminal; None in a pipe, which gets a line every ``PLAIN_INTERVAL_S``.
        num_tokens: trained on by this rank since ``started``.
        num_answers, num_accepted: of a prediction so far.
    """

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.started, self.last_line_at = time.monotonic(), 0.0
        self.num_tokens = 0
        self.num_answers = self.num_accepted = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._start_bar("step", trainer.max_steps, trainer.global_step)

    def _start_bar(self, unit: str, total: int, completed: int) -> None:
        self.started = time.monotonic()
        if console.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self.bar = Bar(TextColumn(unit), *columns, console=console)
            self.bar.add_task("", total=total, completed=completed)
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.num_tokens += batch.num_tokens
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._update("step", trainer.max_steps, trainer.global_step, self.metrics_line(trainer))

    def _update(self, unit: str, total: int, completed: int, line: str) -> None:
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=completed, description=line)
        elif time.monotonic() - self.last_line_at > PLAIN_INTERVAL_S or completed == total:
            self.last_line_at = time.monotonic()
            console.print(f"{unit} {completed}/{total}  {line}")

    def metrics_line(self, trainer: L.Trainer) -> str:
        metrics = trainer.callback_metrics
        values = [f"{m.label} {float(metrics[m.name]):.3f}" for m in PROGRESS_METRICS if m.name in metrics]
        # An estimate: this rank's tokens times the number of ranks.
        tokens_per_s = self.num_tokens * trainer.world_size / (time.monotonic() - self.started)
        return "  ".join([*values, f"{tokens_per_s:,.0f} tok/s"])

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        console.print(validation_line(trainer.global_step, module.validator.metrics))
        for sample in module.validator.shown_samples:
            text = escape(strip_control_chars(sample.completion)[:160])
            console.print(f"   {CORRECT_LABELS[sample.correct]}  {text}")

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.bar:
            self.bar.stop()

    def on_predict_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._start_bar("batch", int(sum(trainer.num_predict_batches)), 0)

    def on_predict_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._update("batch", int(sum(trainer.num_predict_batches)), batch_idx + 1, self._count_answers(outputs))

    def _count_answers(self, outputs: dict[str, Any]) -> str:
        """Add the answers of a batch to the counts; the line with the new counts."""
        answers = [answer for group in outputs["answers"] for answer in group]
        self.num_answers += len(answers)
        self.num_accepted += sum(answer["rejected_by"] is None for answer in answers)
        return f"{self.num_accepted} of {self.num_answers} answers accepted"

    def on_predict_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.on_train_end(trainer, module)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if self.bar:
            self.bar.stop()


def closing_table(record: RunState) -> RenderableType:
    """The metrics before and after training, with intervals, and the record's folder."""
    table = metrics_table(record.start, record.final, "before", "after")
    note = sharpening(record.start, record.final)
    notes = [status_line(f"note: {note}")] if note else []
    return Group(table, *notes, status_line(f"record: {record.dir}"))


def metrics_table(before: Mapping[str, Estimate], after: Mapping[str, Estimate], *titles: str) -> Table:
    """Metrics with intervals, side by side."""
    columns: list[Column | str] = [Column("metric", overflow="fold"), *titles, "n"]
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, estimate in after.items():
        earlier = before.get(name)
        table.add_row(escape(name), str(earlier) if earlier else "", str(estimate), str(estimate.n))
    return table


def validation_line(step: int, metrics: dict[str, Estimate]) -> str:
    """The primary metric of a validation with its interval, and the mean completion length."""
    name = primary_metric(metrics)
    text = f"{name.removeprefix('val/')} {metrics[name]!s}, n={metrics[name].n}"
    if length := metrics.get("val/completion_length"):
        text += f", mean length {length.value:.1f} tokens"
    return f"[bold]validation[/] at step {step}: {text}"
