"""Runs that differ in nothing but their seed are one variant: its name is what sets it apart, its figures are means."""

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
    differing: dict[str, Any]  # the keys that are not the same in all variants, with this one's values
    start: dict[str, Estimate]
    final: dict[str, Estimate]


def variants(runs: Sequence[RunRecord], names: dict[Path, str]) -> list[SeedGroup]:
    """Groups of runs, the best final pass@1 first; a pipeline's steps each stand alone, in their order."""
    configs = {run.dir: _config(run) for run in runs}
    keys = differing_keys(list(configs.values()))
    groups = group_by_values(runs, lambda run: names.get(run.dir) or configs[run.dir])
    made = []
    for group in groups:
        values = {key: configs[group[0].dir].get(key, "-") for key in keys}
        name = names.get(group[0].dir) or _name(group[0], values, runs)
        made.append(SeedGroup(name, group, values, _figures(group, "start"), _figures(group, "final")))
    return made if names else sorted(made, key=lambda v: -v.final["val/pass@1"].value if "val/pass@1" in v.final else 1)


def _config(run: RunRecord) -> dict[str, Any]:
    return {key: value for key, value in flatten(run.config).items() if key.split(".")[0] not in IGNORED}


def differing_keys(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Keys that do not have the same value everywhere."""
    keys = sorted({key for config in configs for key in config})
    return [key for key in keys if len({json.dumps(config.get(key, "-"), default=str) for config in configs}) > 1]


def _name(run: RunRecord, values: dict[str, Any], runs: Sequence[RunRecord]) -> str:
    """``group_size=2`` where few keys differ, else what was typed for this run and not for all."""
    if not values:
        return str(run.config.get("stage", {}).get("_target_", "run")).split(".")[-2:][0]
    if len(values) <= MAX_KEYS:
        return _cut(", ".join(f"{key.removesuffix('._target_')}={_value(key, value)}" for key, value in values.items()))
    typed = [set(other.manifest.get("overrides", [])) for other in runs]
    common = set.intersection(*typed)
    own = [
        o for o in run.manifest.get("overrides", []) if o not in common and o.split("=")[0].strip("+~") not in IGNORED
    ]
    return _cut(" ".join(own) or run.dir.name)


def _value(key: str, value: Any) -> str:
    return str(value).rpartition(".")[2] if key.endswith("_target_") else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 4]} ..."


def _figures(runs: Sequence[RunRecord], when: str) -> dict[str, Estimate]:
    """Of one run its own figures with their intervals; of several the mean over those that have the figure."""
    held = [_recorded(run, when) for run in runs]
    names = {name for figures in held for name in figures}
    return {name: pool_seeds([f[name] for f in held if name in f]) for name in sorted(names, key=display_order)}


def _recorded(run: RunRecord, when: str) -> dict[str, Estimate]:
    """The manifest's figures; of a run without a final validation its last one, which has no interval."""
    figures = run.manifest["metrics"].get(when) or {}
    found = {name: Estimate(**f) for name, f in figures.items()}
    if found or when == "start":
        return found
    rows = [row for row in run.metrics if "val/pass@1" in row]
    return {name: Estimate(value, None, None, 0) for name, value in rows[-1].items() if name != "step"} if rows else {}
