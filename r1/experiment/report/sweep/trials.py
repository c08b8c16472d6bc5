"""One run of a sweep: its parameter values, its metric, its compute, and its outcome."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1.core.metrics import primary_metric
from r1.core.provenance import NOT_IN_FINGERPRINT, flatten
from r1.core.runs import RunRecord
from r1.core.statistics import Estimate
from r1.experiment.report.variants import IGNORED, differing_keys

Value = bool | int | float | str | None
Values = dict[str, Value]  # parameter -> value
SEEDS = ("seed", "seeds")
OUTCOMES = {"finished": "finished", "interrupted": "stopped", "running": "running"}  # any other status: failed
MAX_PARAMETERS = 8  # runs that differ in more are no sweep


@dataclass(frozen=True)
class Compute:
    """The compute of a run; None where its record does not tell.

    Attributes:
        per_step: sequences per optimizer step.
        sequences: in total: completions where the stage samples them, else examples.
        tokens: of all completions, or target tokens.
        wall_s: seconds.
    """

    per_step: float | None
    sequences: float | None
    tokens: float | None
    wall_s: float | None


@dataclass(frozen=True)
class Trial:
    """A run with its place in the sweep.

    Attributes:
        outcome: finished, stopped (early), failed or running.
        estimate: the metric at the end; of an unfinished run, its last validation.
    """

    run: RunRecord
    values: Values
    seed: Any
    outcome: str
    estimate: Estimate | None
    compute: Compute

    @property
    def is_counted(self) -> bool:
        """Whether it is in the means: a run that was stopped early is not measured at the same step as the others."""
        return self.outcome == "finished" and self.estimate is not None


def make_trials(runs: Sequence[RunRecord], names: Sequence[str], metric: str) -> list[Trial]:
    return [_trial(run, names, metric) for run in runs]


def _trial(run: RunRecord, names: Sequence[str], metric: str) -> Trial:
    leaves, typed = flatten(run.config), overrides(run)
    values = {name: _parameter_value(name, leaves, typed) for name in names}
    seed = run.manifest.get("seed")
    seed = next((typed[name] for name in SEEDS if name in typed), "default") if seed is None else seed
    outcome = OUTCOMES.get(str(run.manifest.get("status")), "failed")
    return Trial(run, values, seed, outcome, _final_estimate(run, metric), compute(run))


def overrides(run: RunRecord) -> dict[str, str]:
    """The overrides of a run: key -> text."""
    pairs = (text.lstrip("+~").partition("=") for text in run.manifest.get("overrides") or [])
    return {key: value for key, _, value in pairs}


def _parameter_value(name: str, leaves: Mapping[str, Any], typed: Mapping[str, str]) -> Value:
    """A parameter's value: the config's; for a group or a pipeline's step the text of the override."""
    return normalise(leaves[name]) if name in leaves else normalise(typed.get(name, "default"))


def normalise(value: Any) -> Value:
    """One value for all spellings: 1 for ``1.0`` and ``"1"``, None for ``"null"``."""
    if isinstance(value, str):
        constant = {"null": None, "none": None, "true": True, "false": False}.get(value.lower(), value)
        return _number(value) if constant is value else constant
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return value if value is None or isinstance(value, bool | int) else json.dumps(value, default=str)


def _number(text: str) -> Value:
    try:
        value = float(text)
    except ValueError:
        return text
    return normalise(value) if math.isfinite(value) else text


def _final_estimate(run: RunRecord, metric: str) -> Estimate | None:
    final = (run.manifest["metrics"].get("final") or {}).get(metric)
    if final:
        return Estimate(**final)
    last = [row[metric] for row in run.metrics if isinstance(row.get(metric), int | float)]
    return Estimate(last[-1], None, None, 0) if last and math.isfinite(last[-1]) else None


def compute(run: RunRecord) -> Compute:
    stage, wall_s = run.config.get("stage") or {}, run.manifest.get("wall_s")
    steps = max((int(row.get("step") or 0) for row in run.metrics), default=0)
    if not stage.get("examples_per_step"):
        return Compute(None, None, None, wall_s)
    size = stage.get("sequences_per_step") or stage["examples_per_step"] * (stage.get("group_size") or 1)
    lengths = [row["train/completion_length"] for row in run.metrics if "train/completion_length" in row]
    targets = [row["train/num_tokens"] for row in run.metrics if "train/num_tokens" in row]
    sampled = [row["train/total_tokens"] for row in run.metrics if "train/total_tokens" in row]
    tokens = max(sampled) if sampled else size * sum(lengths) if lengths else sum(targets) if targets else None
    return Compute(size, size * (len(lengths) or steps), tokens, wall_s)


def budget(run: RunRecord) -> str | None:
    """The size that stays the same when the group size changes; None: the stage samples no groups."""
    return run.config.get("budget") if "group_size" in (run.config.get("stage") or {}) else None


def mean_compute(trials: Sequence[Trial]) -> Compute:
    """The mean over several seeds."""

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    compute = [trial.compute for trial in trials]
    return Compute(
        per_step=mean(one.per_step for one in compute),
        sequences=mean(one.sequences for one in compute),
        tokens=mean(one.tokens for one in compute),
        wall_s=mean(one.wall_s for one in compute),
    )


def parameters(runs: Sequence[RunRecord]) -> list[str]:
    """The parameters of runs without a sweep file: the overrides that differ, else the keys of the config that do.

    Empty where none or too many differ: such runs are no sweep.
    """
    typed = [overrides(run) for run in runs]
    names = [name for name in dict.fromkeys(name for one in typed for name in one) if _varies(name)]
    varying = [name for name in names if len({one.get(name) for one in typed}) > 1]
    if not varying:
        varying = [name for name in differing_keys([flatten(run.config) for run in runs]) if _varies(name)]
    return varying if len(varying) <= MAX_PARAMETERS else []


def _varies(name: str) -> bool:
    first = name.partition(".")[0]
    return first not in {*IGNORED, *NOT_IN_FINGERPRINT, *SEEDS} and not first.startswith("hydra")


def metric_of_runs(runs: Sequence[RunRecord]) -> str:
    """The metric of runs without a sweep file."""
    final = {name for run in runs for name in run.manifest["metrics"].get("final") or {}}
    return primary_metric(final or {name for run in runs for row in run.metrics for name in row})
