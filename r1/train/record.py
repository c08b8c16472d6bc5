"""The record of a run: a folder with its config, code, metrics, samples, model, and how it ended.

It is written for every run, also for one that fails or is interrupted. ``manifest.json`` is the summary; each metric
in it is ``{value, low, high, n}``.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lightning.pytorch.loggers import Logger
from rich.markup import escape

from r1.core import budget, jsonl, provenance
from r1.core.console import console
from r1.core.errors import STORAGE, Interrupted, UserError
from r1.core.files import link_equal_files, lock_folder, remove_partial
from r1.core.manifest import close_manifest, manifest_header, status_of, time_now, write_manifest
from r1.core.outputs import DATASETS, damaged_outputs, output_hashes
from r1.core.runs import RunRecord, made_progress, read_run, require_keys
from r1.core.secrets import redact
from r1.core.statistics import Estimate
from r1.core.storage import require_regular
from r1.core.types import Config
from r1.data.base import recorded
from r1.data.conversation import question_text
from r1.data.store import to_json
from r1.stage.validation.metrics import Sample
from r1.train import checkpoint_files
from r1.train.extension import BUDGET_KEYS, check_extension, is_extended
from r1.train.run_state import RunState

if TYPE_CHECKING:
    from torch import Tensor

    from r1.data.base import Row
    from r1.reward.base import Scores
    from r1.stage.validation.sampling import ValidationCompletions

OWN_FILES = ("manifest.json", "config.yaml", "overrides.yaml", "code.diff", "best")
PARTIAL_FILES = "|".join(map(re.escape, (*OWN_FILES, *DATASETS)))  # see ``remove_partial``
APPEND_ONLY_FILES = ("metrics.jsonl", "timing.jsonl", "samples.jsonl")  # a checkpoint holds their sizes
RESUMED_KEYS = ("data", "parents", "packages")  # of a manifest
RESUMED_PARTS = ("trainer", "stage", "rollout")  # of a config


class Record(RunState):
    """Context manager around a run on rank 0: on exit the manifest says how the run ended. A ``stage.Recorder``.

    Args:
        folder: the record's folder; created if need be.
        config: the resolved config as plain containers.
        overrides: the overrides on the command line.
        command: the command line.
        data: fingerprint of the dataset's rows.
        parents: the runs that this one starts from, each with its path and fingerprint.
        resume: continue the run in the folder, which may have a larger budget than before.
        num_examples: training examples.

    Attributes:
        has_all_completions: samples.jsonl holds every completion of the validation.

    Raises:
        UserError: the folder is in use by another process, cannot be written, holds a run and ``resume`` is false, or
            holds a run with another config, other data or other parents, or one that cannot be extended so.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        overrides: list[str],
        command: str,
        data: str,
        parents: list[dict[str, Any]],
        resume: bool,
        num_examples: int = 0,
    ) -> None:
        super().__init__(folder, num_examples)
        self.config, self.overrides, self.command = config, overrides, command
        self._is_extended = False
        self.has_all_completions = False
        self.data, self.parents = data, parents
        self._inputs = provenance.input_hashes(config, parents)
        self._first_config = config  # with the device settings that the run was started with
        self._earlier_wall_s = 0.0
        self._lock = lock_folder(self.dir)
        try:
            self._earlier = self._read_earlier(resume)
        except BaseException:
            self._lock.close()
            raise

    def _read_earlier(self, resume: bool) -> RunRecord | None:
        """The run in the folder that is to be resumed; None: a new run, or one that has failed before its first step.

        Raises:
            UserError: the folder holds a run, and it cannot be resumed.
        """
        if not (self.dir / "manifest.json").exists() or not made_progress(self.dir):
            return None
        if not resume:
            raise UserError(
                "this folder already holds a run",
                key="output_dir",
                value=str(self.dir),
                hint="take another output_dir, or continue it with resume=auto",
            )
        if changed := damaged_outputs(self.dir, self.dir / "best"):  # model/ and traces/ are made again
            message, hint = f"{self.dir / changed[0]} is damaged", "take another output_dir to make it again"
            raise UserError(message, key="resume", value=str(self.dir), hint=hint, code=STORAGE)
        earlier = read_run(str(self.dir))
        require_keys(self.dir / "manifest.json", earlier.manifest, RESUMED_KEYS)
        require_keys(self.dir / "manifest.json", earlier.manifest, ("wall_s",), int | float)
        require_keys(self.dir / "config.yaml", earlier.config, RESUMED_PARTS, dict)
        require_keys(self.dir / "config.yaml", earlier.config["trainer"], ("max_steps", "max_epochs"))
        self._require_checkpoint(earlier)
        self._first_config = provenance.with_device_settings_of(self.config, earlier.config)
        if changes := self._changes_since(earlier):
            unchecked = (*provenance.NOT_IN_FINGERPRINT, *provenance.DEVICE_KEYS)
            raise UserError(
                "this folder holds a run with a different config, and resume needs the same one",
                key="resume",
                value="; ".join(changes),
                expected=f"a larger {' or '.join(BUDGET_KEYS)}, or changes of {', '.join(unchecked)}",
                hint=f"take another output_dir, or what {self.dir}/config.yaml and manifest.json say",
            )
        self._is_extended = is_extended(earlier.config, self._first_config)
        if self._is_extended:
            step = checkpoint_files.newest_step(self.dir / "checkpoints")
            check_extension(earlier.config, self._first_config, self.num_examples, step)
        return earlier

    def _require_checkpoint(self, earlier: RunRecord) -> None:
        """A finished run that has kept no checkpoint would be made again from its start."""
        keeps_none = 0 in (earlier.config["keep_checkpoints"], self.config["keep_checkpoints"])
        was_trained = earlier.manifest["status"] == "finished" and "optimizer" in self.config["stage"]
        if keeps_none and was_trained and not checkpoint_files.newest_step(self.dir / "checkpoints"):
            message, hint = "this run has finished, and its checkpoints were removed", "take another output_dir"
            expected = "a run with keep_checkpoints=1 or more"
            raise UserError(message, key="resume", value=str(self.dir), expected=expected, hint=hint)

    def _changes_since(self, earlier: RunRecord) -> list[str]:
        """The differences of config, data and parents that make this another run."""
        manifest = earlier.manifest
        # Paths count as their parents' fingerprints, so a moved parent is the same parent.
        before = provenance.replace_paths_by_fingerprint(
            provenance.fingerprinted_config(earlier.config), manifest["parents"]
        )
        now = provenance.replace_paths_by_fingerprint(
            provenance.fingerprinted_config(redact(self._first_config)), self.parents
        )
        changes = [
            f"{key}: {old} -> {new}" for key, old, new in provenance.differences(before, now) if key not in BUDGET_KEYS
        ]
        inputs = provenance.differences({"inputs": manifest.get("inputs", self._inputs)}, {"inputs": self._inputs})
        changes += [f"{key.removeprefix('inputs.')}: other content than before" for key, *_ in inputs]
        if manifest["data"] != self.data:
            changes.append("data: other rows than before, or an earlier version of r1 has recorded them")
        if _fingerprints(manifest["parents"]) != _fingerprints(self.parents):
            changes.append("parents: other runs than before")
        return changes

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise
        try:
            self._write_sources()
        except BaseException as error:  # there is a manifest by now, which would stay at `running`
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _open(self) -> None:
        self._started = time.monotonic()
        for name in APPEND_ONLY_FILES:
            require_regular(self.dir / name)
        self._remove_partial()
        self._provenance = provenance.environment(self.config)
        if self._earlier:
            self._restore(self._earlier.manifest)
        self.write_manifest("running")  # first: it makes the folder a record, whose files are r1's

    def _write_sources(self) -> None:
        if not self._earlier:
            for name in DATASETS:  # of a failed start; the teacher's answers stay, which are stored by content
                (self.dir / "traces" / name).unlink(missing_ok=True)
        if self._is_extended or not self._earlier:  # extended: from here on the run that had this budget from the start
            provenance.write_sources(self.dir, self._first_config, self.overrides)

    def _restore(self, manifest: dict[str, Any]) -> None:
        """Continue an earlier record; warn of new devices, packages and code, which can change the last bits."""
        self._earlier_wall_s, self.best = manifest["wall_s"], manifest.get("best")
        self.start = {name: Estimate(**fields) for name, fields in manifest["metrics"]["start"].items()}
        devices = provenance.differences(
            provenance.fingerprinted_config(self._first_config), provenance.fingerprinted_config(self.config)
        )
        changes = [f"{key} was {before} and is {after}" for key, before, after in devices]
        for change in changes + provenance.environment_changes(manifest, self._provenance):
            console.print(f"warning: {escape(change)}, so the rest may differ in its last bits")

    def _remove_partial(self) -> None:
        """Remove partial files of a killed run; the lock excludes other writers."""
        for folder in (self.dir, self.dir / "traces"):
            remove_partial(folder, PARTIAL_FILES)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Interrupted):
            error.folder = str(self.dir)
        try:
            with suppress(OSError):
                self._remove_partial()  # which may make the room that the manifest needs
            close_manifest(self.dir, self._manifest(status_of(error), error))
            if error is None and not self.config["keep_checkpoints"]:  # killed before, the run can be resumed
                checkpoint_files.remove_all(self.dir / "checkpoints")
        finally:
            self._lock.close()

    def write_manifest(self, status: str) -> None:
        write_manifest(self.dir, self._manifest(status))

    def _manifest(self, status: str, error: BaseException | None = None) -> dict[str, Any]:
        compute = budget.compute_budget(self.config, self.num_examples or None)
        return {
            **manifest_header(status, error, str(error), self.command, self.overrides),
            "seed": self.config["seed"],
            "compute": asdict(compute) if compute else None,
            "fingerprint": provenance.fingerprint(self._first_config, self.data, self.parents, self._inputs),
            "data": self.data,
            "inputs": self._inputs,
            "parents": self.parents,
            **self._provenance,
            "devices": self.devices,
            "wall_s": round(self._earlier_wall_s + time.monotonic() - self._started, 3),
            "ended": time_now(),
            "best": self.best,
            "metrics": {"start": _as_dicts(self.start), "final": _as_dicts(self.final)},
            "outputs": output_hashes(self.dir, self.has_all_completions) if status == "finished" else {},
        }

    def link_best(self) -> None:
        link_equal_files(self.dir / "best", self.dir / "model")

    # ---- append-only files ----

    def _append_only_files(self) -> list[Path]:
        return [file for name in APPEND_ONLY_FILES if (file := self.dir / name).is_file()]

    def file_sizes(self) -> dict[str, int]:
        return {file.name: file.stat().st_size for file in self._append_only_files()}

    def truncate_files(self, sizes: Mapping[str, int]) -> None:
        for file in self._append_only_files():
            size, earlier_size = file.stat().st_size, sizes.get(file.name, 0)
            if size < earlier_size:  # not by a crash: the files are synced before the checkpoint with their sizes
                console.print(f"warning: {file} has lost {earlier_size - size} bytes since the checkpoint")
                jsonl.repair_and_read(file)
                continue
            if size > earlier_size and self._is_extended:
                (self.dir / "wandb_id").unlink(missing_ok=True)  # W&B has rows that the extended run never logs
            os.truncate(file, earlier_size)

    def add_samples(
        self, split: str, step: int, rows: Sequence[Row], samples: Sequence[Sample], scores: Scores
    ) -> None:
        """Validation completions, one line for each of ``rows``; the samples after them are left out."""
        self._append_samples(
            {"split": split, "step": step} | _question(row) | _validated(sample, scores, i)
            for i, (row, sample) in enumerate(zip(rows, samples, strict=False))
        )

    def add_completions(self, step: int, completions: ValidationCompletions) -> None:
        """A part of a validation of which every completion is kept; the lines of a prompt stand together.

        ``index`` is the prompt's number in the held-out split. The prompt's first line has the whole row, as JSON. A
        greedy completion is marked, comes last and has no reward.
        """
        self.has_all_completions = True
        num_samples = len(completions.samples) // len(completions.indices)
        lines: list[dict[str, Any]] = []
        for p, index in enumerate(completions.indices):
            own = range(p * num_samples, (p + 1) * num_samples)
            row, scores = completions.rows[own[0]], completions.scores
            fields = {"index": index, "split": "val", "step": step} | _question(row)
            first = len(lines)
            lines += [fields | _validated(completions.samples[b], scores, b) for b in own]
            lines += [fields | asdict(answer) | {"greedy": True} for answer in completions.greedy[p : p + 1]]
            lines[first]["row"] = to_json(recorded(row))
        self._append_samples(lines)

    def add_pairs(self, split: str, step: int, rows: Sequence[Row], margins: Sequence[float]) -> None:
        """Preference pairs with the reward model's margin, chosen minus rejected."""
        columns = ("prompt", "chosen", "rejected")
        self._append_samples(
            {"split": split, "step": step}
            | {name: question_text(row[name]) for name in columns if name in row}
            | {"margin": margin}
            for row, margin in zip(map(recorded, rows), margins, strict=False)
        )

    def add_rollouts(
        self,
        step: int,
        row: Row,
        texts: Sequence[str],
        truncated: Sequence[bool],
        scores: Scores,
        advantages: Tensor,
    ) -> None:
        """A row's training completions with their reward, each of its terms and the advantage."""
        self._append_samples(
            {"split": "train", "step": step}
            | _question(row)
            | {"completion": text, "truncated": truncated[i]}
            | {"reward": nan_to_none(scores.total[i]), "advantage": float(advantages[i])}
            | {"rewards": _rewards(scores, i)}
            for i, text in enumerate(texts)
        )

    def _append_samples(self, lines: Iterable[dict[str, Any]]) -> None:
        jsonl.append_rows(self.dir / "samples.jsonl", lines)


class MetricsFile(Logger):
    """``metrics.jsonl`` and ``timing.jsonl``: one row per step and kind of metrics.

    Times have a file of their own, so that equal runs have equal ``metrics.jsonl``.
    """

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
        """Nothing: ``config.yaml`` has them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        times = {name: value for name, value in metrics.items() if name.startswith("time/")}
        others = {name: value for name, value in metrics.items() if name not in times}
        for file_name, row in (("timing.jsonl", times), ("metrics.jsonl", others)):
            if row:
                jsonl.append_rows(self.folder / file_name, [{"step": step} | row])


def _fingerprints(parents: list[dict[str, Any]]) -> list[str]:
    return [parent["fingerprint"] for parent in parents]


def _question(row: Row) -> dict[str, Any]:
    row = recorded(row)
    is_private = {"private": True} if row.get("private_question") else {}
    return {"prompt": question_text(row["prompt"]), "answer": row.get("answer")} | is_private


def _validated(sample: Sample, scores: Scores, i: int) -> dict[str, Any]:
    """A completion of validation, ``sample``, with its reward and the terms, those of sample ``i``."""
    return asdict(sample) | {"reward": nan_to_none(scores.total[i]), "rewards": _rewards(scores, i)}


def _rewards(scores: Scores, i: int) -> dict[str, float | None]:
    """The reward terms of sample ``i``."""
    return {name: nan_to_none(values[i]) for name, values in scores.terms.items()}


def nan_to_none(value: float) -> float | None:
    """JSON has no NaN: a reward that does not apply becomes null."""
    return None if math.isnan(value) else value


def _as_dicts(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}
