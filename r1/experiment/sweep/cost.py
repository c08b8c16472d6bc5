"""How long a run will take: as long as its like took here, else a rough estimate from the tokens that it may sample."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from r1.core import budget
from r1.core.types import Config

TINY = ("r1:tiny", "r1:tiny_xs")
SECONDS, TOKENS = 38.0, 17_920 * 64  # the default run: its wall time with 2 threads on 2 cores, its completions x limit
NEWEST = 200  # records that are looked at
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Cost:
    """Seconds of one run, None: unknown; and how many records say so, 0: none, it is an estimate."""

    seconds: float | None
    records: int


def cost(cfg: Config, measured: dict[str, list[float]]) -> Cost:
    """Of one run. The start of its process, some seconds, comes on top."""
    if seconds := measured.get(_kind(cfg)):
        return Cost(statistics.median(seconds), len(seconds))
    if cfg["model"].get("path") not in TINY:
        return Cost(None, 0)
    return Cost(SECONDS * num_tokens(cfg) / TOKENS, 0)


def num_tokens(cfg: Config) -> int:
    """Completion tokens that a run may sample or learn from, validations included, were all as long as they can be."""
    stage, steps, val = cfg["stage"], cfg["trainer"]["max_steps"], cfg["val"]
    made = budget.compute_budget(cfg)
    learned = made.sequences if made else stage.get("examples_per_step", 0) * steps
    asked = stage.get("num_questions", 0) * stage.get("answers_per_question", 1)
    validations = 1 + (-(-steps // val["every"]) if learned else 0)
    completions = learned + asked + validations * val["num_prompts"] * val["num_samples"]
    return int(completions * cfg["rollout"]["max_completion_length"])


def recorded_times(top: Path) -> dict[str, list[float]]:
    """Seconds of the newest finished runs below a folder, by the kind of run."""
    found: dict[str, list[float]] = {}
    manifests = sorted(top.rglob("manifest.json"), key=lambda file: -file.stat().st_mtime)
    for manifest in manifests[:NEWEST]:
        try:
            held = json.loads(manifest.read_text(encoding="utf-8"))
            if held["status"] == "finished" and "steps" not in held:
                cfg = yaml.load((manifest.parent / "config.yaml").read_text(encoding="utf-8"), Loader=LOADER)
                found.setdefault(_kind(cfg), []).append(float(held["wall_s"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
            continue  # what is no record of this version of r1 says nothing about its runs
    return found


def _kind(cfg: Config) -> str:
    """What decides how long a run takes: one text for all runs that are alike in it."""
    model, val, made = cfg["model"], cfg["val"], budget.compute_budget(cfg)
    parts = [
        cfg["stage"]["_target_"],
        [model.get(key) for key in ("path", "config", "dtype")],
        cfg["data"]["_target_"],
        cfg["trainer"]["max_steps"],
        made.sequences if made else cfg["stage"].get("examples_per_step"),
        [val[key] for key in ("every", "num_prompts", "num_samples")],
        cfg["rollout"].get("max_completion_length"),
    ]
    return json.dumps(parts, default=str)
