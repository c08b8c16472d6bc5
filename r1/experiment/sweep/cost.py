"""How long a run will take: the time of similar runs here, else a rough estimate from the tokens that it may sample."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from r1.core import budget
from r1.core.errors import UserError
from r1.core.manifest import read_manifest
from r1.core.runs import read_config
from r1.core.types import Config

SHIPPED_MODELS = ("r1:tiny", "r1:tiny_xs")
REFERENCE_SECONDS = 38.0  # wall time of the default run with 2 threads on 2 cores
REFERENCE_TOKENS = 17_920 * 64  # its completions x their maximal length
MAX_RECORDS = 200  # the newest are read


@dataclass(frozen=True)
class RunCost:
    """Seconds of one run, None: unknown; and the number of records behind it, 0: it is an estimate."""

    seconds: float | None
    records: int


def estimate_cost(cfg: Config, measured: dict[str, list[float]]) -> RunCost:
    """The cost of one run, without the some seconds that its process takes to start.

    Args:
        measured: as ``recorded_times`` returns it.
    """
    if seconds := measured.get(_cost_key(cfg)):
        return RunCost(statistics.median(seconds), len(seconds))
    if cfg["model"].get("path") not in SHIPPED_MODELS or cfg["trainer"]["max_steps"] is None:
        return RunCost(None, 0)
    return RunCost(REFERENCE_SECONDS * num_tokens(cfg) / REFERENCE_TOKENS, 0)


def num_tokens(cfg: Config) -> int:
    """Completion tokens that a run samples or learns from, validations included, if all have the maximal length."""
    stage, steps, val = cfg["stage"], cfg["trainer"]["max_steps"], cfg["val"]
    compute = budget.compute_budget(cfg)
    trained = compute.sequences or 0 if compute else stage.get("examples_per_step", 0) * steps
    queried = stage.get("num_questions", 0) * stage.get("answers_per_question", 1)
    validations = int(val["at_start"]) + (-(-steps // val["every"]) if trained else 0)
    validated = val["num_prompts"] * (val["num_samples"] + val["greedy"])
    completions = trained + queried + validations * validated
    return int(completions * cfg["rollout"]["max_completion_length"])


def recorded_times(top: Path) -> dict[str, list[float]]:
    """Seconds of the newest finished runs below a folder, by cost key."""
    times: dict[str, list[float]] = {}
    manifests = sorted(top.rglob("manifest.json"), key=lambda file: -file.stat().st_mtime)
    for folder in [file.parent for file in manifests[:MAX_RECORDS]]:
        try:
            manifest = read_manifest(folder)
            if manifest["status"] == "finished" and "steps" not in manifest:
                cfg = read_config(folder / "config.yaml")
                times.setdefault(_cost_key(cfg), []).append(float(manifest["wall_s"]))
        except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError):
            continue  # a record of another version of r1, or none
    return times


def _cost_key(cfg: Config) -> str:
    """The parts of a config that decide how long a run takes, as one text."""
    model, val, compute = cfg["model"], cfg["val"], budget.compute_budget(cfg)
    parts = [
        cfg["stage"]["_target_"],
        [model.get(key) for key in ("path", "config", "dtype")],
        cfg["data"]["_target_"],
        [cfg["trainer"].get(key) for key in ("max_steps", "max_epochs")],
        compute.sequences if compute else cfg["stage"].get("examples_per_step"),
        [val[key] for key in ("at_start", "every", "num_prompts", "num_samples", "greedy")],
        cfg["rollout"].get("max_completion_length"),
    ]
    return json.dumps(parts, default=str)
