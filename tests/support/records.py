"""Synthetic records (manifest, config, metrics, samples), and a reader of HTML."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from r1.core import jsonl

MakeRecord = Callable[..., Path]
HOSTILE = '</script><img src=x onerror="document.title=1"><script>document.title=2</script>'


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 64}


def rows(steps: int, seed: int) -> list[dict[str, float]]:
    metrics: list[dict[str, float]] = []
    for step in range(steps):
        row = {"step": step, "train/reward": 0.01 * step + 0.1 * seed, "train/loss": -0.5}
        metrics.append(row | {"reward/accuracy_weighted": 0.5, "reward/accuracy": 0.5, "reward/format_weighted": -0.1})
        if step % 10 == 0:
            metrics.append({"step": step, "val/pass@1": 0.4 + 0.1 * seed, "val/language": 0.9})
    return metrics


def sample(step: int, completion: str, **more: Any) -> dict[str, Any]:
    row = {"split": "val", "step": step, "prompt": "1+2=?", "answer": "3", "completion": completion, "correct": True}
    return row | {"rewards": {"accuracy": 1.0}} | more


def make_record(
    top: Path, name: str, *, seed: int = 0, group_size: int = 8, steps: int = 21, samples: Any = (), **manifest: Any
) -> Path:
    """The folder of a run, as r1.train.record writes it."""
    folder = top / name
    folder.mkdir(parents=True)
    fields = {
        "status": "finished",
        "error": None,
        "command": f"python -m r1.run seed={seed}",
        "overrides": [f"seed={seed}", f"stage.group_size={group_size}"],
        "seed": seed,
        "fingerprint": name,
        "parents": [],
        "git": {"commit": "abc", "dirty": False},
        "packages": {"torch": "2.13"},
        "wall_s": 12.5,
        "ended": "2026-11-24T17:55:49+00:00",
        "metrics": {"start": {"val/pass@1": figure(0.3)}, "final": {"val/pass@1": figure(0.6 + 0.1 * seed)}},
    }
    (folder / "manifest.json").write_text(json.dumps(fields | manifest))
    config = {"seed": seed, "output_dir": name, "stage": {"_target_": "r1.stage.grpo.Grpo", "group_size": group_size}}
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    jsonl.append_rows(folder / "metrics.jsonl", rows(steps, seed))
    jsonl.append_rows(folder / "samples.jsonl", samples or [sample(0, "<think> so</think><answer>3</answer>")])
    return folder


def make_trial(
    top: Path, name: str, values: dict[str, Any], *, seed: int = 0, score: float | None = 0.5, **manifest: Any
) -> Path:
    """The folder of one run of a sweep: ``values`` by their dotted keys; no ``score``: without a validation."""
    final = {} if score is None else {"val/pass@1": figure(score)}
    overrides = [f"{key}={'null' if value is None else value}" for key, value in values.items()]
    fields = {
        "overrides": ["stage=grpo", *overrides, f"seed={seed}"],
        "metrics": {"start": {}, "final": final},
    } | manifest
    folder = make_record(top, name, seed=seed, steps=0, **fields)
    config = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(config, "stage.examples_per_step", 16)
    OmegaConf.update(config, "budget", "sequences")
    for key, value in values.items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, folder / "config.yaml")
    steps = [{"step": step, "train/completion_length": 10.0} for step in (1, 2)]
    jsonl.append_rows(
        folder / "metrics.jsonl", [*steps, *([] if score is None else [{"step": 2, "val/pass@1": score}])]
    )
    return folder


SWEEP = """# Does it matter?
method: {method}
metric: {{name: val/pass@1, goal: maximize}}
parameters: {{{parameters}, seed: {{values: [0, 1, 2, 3, 4]}}}}
command: ["${{env}}", "${{interpreter}}", -m, r1.run, stage=grpo, "${{args_no_hyphens}}"]
"""


def make_sweep(folder: Path, *parameters: str, method: str = "grid") -> Path:
    """A sweep's folder, before its runs."""
    folder.mkdir(parents=True, exist_ok=True)
    named = ", ".join(f"{name}: {{values: [1, 2]}}" for name in parameters)
    (folder / "sweep.yaml").write_text(SWEEP.format(method=method, parameters=named))
    return folder


def hostile(record: MakeRecord) -> Path:
    """A run with markup in every text of its record."""
    row = {
        "split": "train",
        "step": 3,
        "prompt": HOSTILE,
        "completion": f"<think>{HOSTILE}</think>{HOSTILE}",
        "advantage": 1,
    }
    fields = {"command": HOSTILE, "error": HOSTILE, "status": HOSTILE, "overrides": [HOSTILE]}
    folder = record("a&<b>", samples=[row | {"rewards": {HOSTILE: 1.0}}], packages={HOSTILE: HOSTILE}, **fields)
    with (folder / "metrics.jsonl").open("a") as out:
        out.write(json.dumps({"step": 30, HOSTILE: 1.0, f"reward/{HOSTILE}_weighted": 1.0}) + "\n")
    return folder


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
