"""Groups of runs that differ only in their seed: their names are their differences, their metrics are means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1.core.metrics import display_order
from r1.core.provenance import NOT_IN_FINGERPRINT, flatten
from r1.core.runs import RunRecord
from r1.core.statistics import Estimate, pool_seeds
from r1.experiment.seed_groups import group_by_values

IGNORED = {*NOT_IN_FINGERPRINT, "seed", "threads"}
MAX_KEYS, MAX_CHARS = 3, 80  # of a variant's name


@dataclass(frozen=True)
class SeedGroup:
    name: str
    runs: list[RunRecord]
    differing: dict[str, Any]  # the config keys that differ between groups, with this group's values
    start: dict[str, Estimate]
    final: dict[str, Estimate]


def variants(runs: Sequence[RunRecord], names: dict[Path, str]) -> list[SeedGroup]:
    """Groups of runs, the best final pass@1 first; each step of a pipeline is a group, in their order."""
    configs = {run.dir: _config(run) for run in runs}
    keys = differing_keys(list(configs.values()))
    groups = group_by_values(runs, lambda run: names.get(run.dir) or configs[run.dir])
    variants = []
    for group in groups:
        values = {key: configs[group[0].dir].get(key, "-") for key in keys}
        name = names.get(group[0].dir) or _name(group[0], values, runs)
        variants.append(SeedGroup(name, group, values, _estimates(group, "start"), _estimates(group, "final")))
    if names:
        return variants
    return sorted(variants, key=lambda v: -v.final["val/pass@1"].value if "val/pass@1" in v.final else 1)


def _config(run: RunRecord) -> dict[str, Any]:
    return {key: value for key, value in flatten(run.config).items() if key.split(".")[0] not in IGNORED}


def differing_keys(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Keys that do not have the same value everywhere."""
    keys = sorted({key for config in configs for key in config})
    return [key for key in keys if len({json.dumps(config.get(key, "-"), default=str) for config in configs}) > 1]


def _name(run: RunRecord, values: dict[str, Any], runs: Sequence[RunRecord]) -> str:
    """``group_size=2`` where few keys differ, else the overrides of this run that not all runs have."""
    if not values:
        return str(run.config.get("stage", {}).get("_target_", "run")).split(".")[-2:][0]
    if len(values) <= MAX_KEYS:
        return _cut(", ".join(f"{key.removesuffix('._target_')}={_value(key, value)}" for key, value in values.items()))
    overrides = [set(other.manifest.get("overrides") or []) for other in runs]
    common = set.intersection(*overrides)
    distinct = [
        o for o in run.manifest.get("overrides") or [] if o not in common and o.split("=")[0].strip("+~") not in IGNORED
    ]
    return _cut(" ".join(distinct) or run.dir.name)


def _value(key: str, value: Any) -> str:
    return str(value).rpartition(".")[2] if key.endswith("_target_") else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 4]} ..."


def _estimates(runs: Sequence[RunRecord], when: str) -> dict[str, Estimate]:
    """One run's estimates with their intervals; of several runs the mean over those that have the metric."""
    recorded = [_recorded_estimates(run, when) for run in runs]
    names = {name for estimates in recorded for name in estimates}
    return {name: pool_seeds([e[name] for e in recorded if name in e]) for name in sorted(names, key=display_order)}


def _recorded_estimates(run: RunRecord, when: str) -> dict[str, Estimate]:
    """The manifest's estimates; for a run without a final validation its last one, which has no interval."""
    estimates = run.manifest["metrics"].get(when) or {}
    if estimates or when == "start":
        return {name: Estimate(**fields) for name, fields in estimates.items()}
    rows = [row for row in run.metrics if "val/pass@1" in row]
    last = rows[-1] if rows else {}
    return {name: Estimate(value, None, None, 0) for name, value in last.items() if name != "step"}
