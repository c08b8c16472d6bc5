"""A run's folder: the config, the code, the metrics, the samples, the model, and how it ended.

It is written for every run, also for one that fails or is interrupted. ``manifest.json`` is the summary; everything
in it that is a metric is ``{value, low, high, n}``.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lightning.pytorch.loggers import Logger
from rich.markup import escape

from r1.core import budget, jsonl, provenance
from r1.core.console import console
from r1.core.errors import Interrupted, UserError
from r1.core.files import lock_folder
from r1.core.manifest import manifest_header, status_of, time_now, write_manifest
from r1.core.runs import RunRecord, read_run
from r1.core.secrets import redact
from r1.core.statistics import Estimate
from r1.stage.validation.metrics import Sample
from r1.train.run_state import RunState

if TYPE_CHECKING:
    from torch import Tensor

    from r1.data.base import Row
    from r1.reward.base import Scores

APPEND_ONLY_FILES = ("metrics.jsonl", "timing.jsonl", "samples.jsonl")


class Record(RunState):
    """Context manager around a run: whatever happens inside, the manifest says how it ended.

    Args:
        folder: the record's folder; made if need be.
        config: the resolved config as plain containers.
        overrides: what the user typed.
        command: the command line.
        data: fingerprint of the dataset's rows.
        parents: the runs that this one starts from, each with its path and fingerprint.
        resume: continue the run that the folder holds.

    Raises:
        UserError: the folder is in use by another process, cannot be written, holds a run and ``resume`` is false, or
            holds a run with another config, other data or other parents.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        overrides: list[str],
        command: str,
        data: str,
        parents: list[dict[str, Any]],
        resume: bool,
    ) -> None:
        super().__init__(folder)
        self.config, self.overrides, self.command = config, overrides, command
        self._begun, self.data, self.parents = config, data, parents
        self._earlier_wall_s = 0.0
        self._lock = lock_folder(self.dir)
        try:
            self._earlier = self._read_earlier(resume)
        except BaseException:
            self._lock.close()
            raise

    def _read_earlier(self, resume: bool) -> RunRecord | None:
        """The run that the folder holds, if it is the one that is to be continued."""
        if not (self.dir / "manifest.json").exists():
            return None
        if not resume:
            raise UserError(
                "this folder already holds a run",
                key="output_dir",
                value=str(self.dir),
                hint="take another output_dir, or continue it with resume=auto",
            )
        earlier = read_run(str(self.dir))
        self._check_same(earlier)
        return earlier

    def _check_same(self, earlier: RunRecord) -> None:
        then, self._begun = earlier.manifest, provenance.with_device_settings_of(self.config, earlier.config)
        now: dict[str, Any] = {"data": self.data, "parents": self.parents}
        configs = [
            provenance.replace_paths_by_fingerprint(provenance.fingerprinted_config(config), held["parents"])
            for config, held in ((earlier.config, then), (redact(self._begun), now))
        ]
        changed = [f"{key}: {before} -> {after}" for key, before, after in provenance.differences(*configs)]
        lineages = [[parent["fingerprint"] for parent in held["parents"]] for held in (then, now)]
        changed += ["data: not the same as then"] if then["data"] != now["data"] else []
        changed += ["parents: not the same as then"] if lineages[0] != lineages[1] else []
        if changed:
            raise UserError(
                "the run in this folder was begun otherwise: it can only be continued as it was",
                key="resume",
                value="; ".join(changed),
                expected=f"changes of {', '.join((*provenance.NOT_IN_FINGERPRINT, *provenance.DEVICE_KEYS))}",
                hint="take another output_dir, or continue it as it was begun",
            )

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._lock.close()
            raise
        return self

    def _begin(self) -> None:
        self._started = time.monotonic()
        self._remove_partial_files()
        self._provenance = provenance.environment(self.config)
        if self._earlier:
            earlier = self._earlier.manifest
            self._earlier_wall_s, self.best = earlier["wall_s"], earlier.get("best")
            self.start = {name: Estimate(**figure) for name, figure in earlier["metrics"]["start"].items()}
            moved = provenance.differences(
                provenance.fingerprinted_config(self._begun), provenance.fingerprinted_config(self.config)
            )
            changes = [f"{key} was {before} and is {after}" for key, before, after in moved]
            for change in changes + provenance.environment_changes(earlier, self._provenance):
                console.print(f"warning: {escape(change)}, so the rest may differ in its last bits")
        else:
            provenance.write_sources(self.dir, self.config, self.overrides)
        self.write_manifest("running")

    def _remove_partial_files(self) -> None:
        """Remove what a run that was killed had not finished writing; no other process writes here."""
        for partial in [*self.dir.glob("*.tmp.*"), *self.dir.glob("traces/*.tmp.*")]:
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Interrupted):
            error.folder = str(self.dir)
        self.write_manifest(status_of(error), error)
        self._lock.close()

    def write_manifest(self, status: str, error: BaseException | None = None) -> None:
        compute = budget.compute_budget(self.config)
        manifest = {
            **manifest_header(status, error, str(error), self.command, self.overrides),
            "seed": self.config["seed"],
            "compute": asdict(compute) if compute else None,
            "fingerprint": provenance.fingerprint(self._begun, self.data, self.parents),
            "data": self.data,
            "parents": self.parents,
            **self._provenance,
            "devices": self.devices,
            "wall_s": round(self._earlier_wall_s + time.monotonic() - self._started, 3),
            "ended": time_now(),
            "best": self.best,
            "metrics": {"start": _as_dicts(self.start), "final": _as_dicts(self.final)},
        }
        write_manifest(self.dir, manifest)

    # ---- the files that grow ----

    def file_sizes(self) -> dict[str, int]:
        return {name: (self.dir / name).stat().st_size for name in APPEND_ONLY_FILES if (self.dir / name).is_file()}

    def cut_files(self, sizes: Mapping[str, int]) -> None:
        """Cut the growing files back to an earlier moment: what came after it will be written again."""
        for file in (self.dir / name for name in APPEND_ONLY_FILES if (self.dir / name).is_file()):
            size, kept = file.stat().st_size, sizes.get(file.name, 0)
            if size < kept:  # someone else did that: a checkpoint's files are on the disk before it is
                console.print(f"warning: {file} has lost {kept - size} bytes of what it held at the checkpoint")
                jsonl.repair_and_read(file)
            else:
                os.truncate(file, kept)

    def add_samples(
        self, split: str, step: int, rows: Sequence[Row], samples: Sequence[Sample], scores: Scores
    ) -> None:
        """Validation completions, one line each, for as many as there are ``rows``."""
        self._append_samples(
            {"split": split, "step": step, "prompt": row["prompt"], "answer": row.get("answer")}
            | asdict(sample)
            | {"rewards": _rewards(scores, i)}
            for i, (row, sample) in enumerate(zip(rows, samples, strict=False))
        )

    def add_pairs(self, split: str, step: int, rows: Sequence[Row], margins: Sequence[float]) -> None:
        """Pairs of answers with the margin by which a reward model prefers the one that people chose."""
        columns = ("prompt", "chosen", "rejected")
        self._append_samples(
            {"split": split, "step": step} | {name: row[name] for name in columns} | {"margin": margin}
            for row, margin in zip(rows, margins, strict=False)
        )

    def add_rollouts(
        self, step: int, rows: Sequence[Row], texts: Sequence[str], scores: Scores, advantages: Tensor
    ) -> None:
        """Training completions with each reward term and the advantage."""
        self._append_samples(
            {"split": "train", "step": step, "prompt": row["prompt"], "answer": row.get("answer")}
            | {"completion": text, "reward": nan_to_none(scores.total[i]), "advantage": float(advantages[i])}
            | {"rewards": _rewards(scores, i)}
            for i, (row, text) in enumerate(zip(rows, texts, strict=False))
        )

    def _append_samples(self, lines: Any) -> None:
        jsonl.append_rows(self.dir / "samples.jsonl", lines)


class MetricsFile(Logger):
    """``metrics.jsonl``: one line per step and kind of row; ``timing.jsonl`` takes what no two runs share."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @property
    def name(self) -> str:
        return "record"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The record holds the whole config already."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        timing = {name: value for name, value in metrics.items() if name.startswith("time/")}
        rest = {name: value for name, value in metrics.items() if name not in timing}
        for name, row in (("timing.jsonl", timing), ("metrics.jsonl", rest)):
            if row:
                jsonl.append_rows(self.folder / name, [{"step": step} | row])


def _rewards(scores: Scores, i: int) -> dict[str, float | None]:
    return {name: nan_to_none(values[i]) for name, values in scores.terms.items()}


def nan_to_none(value: float) -> float | None:
    """JSON has no NaN: a reward that does not apply is null."""
    return None if math.isnan(value) else value


def _as_dicts(figures: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(figure) for name, figure in figures.items()}
