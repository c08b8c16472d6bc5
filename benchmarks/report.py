"""What the side-by-side benchmarks print: where it ran, each side's figures, and ratios as medians of pairs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pairs import SIDES, Step

Figures = dict[str, Any]
PACKAGES = ("r1", "trl", "torch", "transformers", "lightning")
COLUMNS = {  # figure -> heading, width, format
    "tokens_per_s": ("tokens/s", 10, ",.0f"),
    "step_s": ("s/step", 8, ".3f"),
    "rollout_s": ("rollout", 8, ".3f"),
    "score_s": ("score", 8, ".3f"),
    "update_s": ("update", 8, ".3f"),
    "tokens_per_step": ("tokens", 8, ",.0f"),
    "peak_mb": ("peak MB", 9, ",.0f"),
    "above_start_mb": ("above start", 12, ",.0f"),
}


def where(device: str, threads: int) -> Figures:
    """The machine and the versions; sets this process's threads too."""
    import torch

    torch.set_num_threads(threads)
    cores = f"{os.cpu_count()} cores, {threads} threads"
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{cpu()}, {cores}",
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def print_header(found: Figures) -> None:
    print(found["device"])
    print(", ".join(f"{name} {number}" for name, number in found["versions"].items()))


def compared(pairs: list[dict[str, Step]], memory: dict[str, Step]) -> Figures:
    """Both sides' medians, and the ratios r1 / TRL."""
    sides = {side: summary([pair[side] for pair in pairs], memory[side]) for side in SIDES}
    speeds = [speed(pair["r1"]) / speed(pair["trl"]) for pair in pairs]
    ratio = {
        "tokens_per_s": statistics.median(speeds),
        "tokens_per_s_min": min(speeds),
        "tokens_per_s_max": max(speeds),
        "memory": sides["r1"]["peak_mb"] / sides["trl"]["peak_mb"],
        "memory_above_start": sides["r1"]["above_start_mb"] / max(sides["trl"]["above_start_mb"], 1.0),
    }
    return {**sides, "ratio": ratio, "pairs": len(pairs)}


def speed(step: Step) -> float:
    return step["tokens"] / step["seconds"]


def summary(steps: list[Step], memory: Step) -> Figures:
    """Medians over one side's steps; a step without ``rollout`` is an update and nothing else."""
    found = {
        "tokens_per_s": statistics.median(map(speed, steps)),
        "step_s": statistics.median(step["seconds"] for step in steps),
        "tokens_per_step": statistics.mean(step["tokens"] for step in steps),
        "peak_mb": memory["peak_mb"],
        "above_start_mb": memory["peak_mb"] - memory["start_mb"],
    }
    if "rollout" in steps[0]:
        found |= {f"{name}_s": statistics.median(step[name] for step in steps) for name in ("rollout", "score")}
        rests = [step["seconds"] - step["rollout"] - step["score"] for step in steps]
        found["update_s"] = statistics.median(rests)
    return found


def print_table(title: str, result: Figures) -> None:
    columns = {name: column for name, column in COLUMNS.items() if name in result["r1"]}
    print(f"\n{title}")
    print("      " + "".join(f"{heading:>{width}}" for heading, width, _ in columns.values()))
    for side in SIDES:
        cells = (f"{result[side][name]:>{width}{form}}" for name, (_, width, form) in columns.items())
        print(f"  {side:4}" + "".join(cells))
    ratio = result["ratio"]
    spread = f"({ratio['tokens_per_s_min']:.2f} to {ratio['tokens_per_s_max']:.2f}, {result['pairs']} pairs)"
    print(f"  r1 / trl: tokens/s {ratio['tokens_per_s']:.2f} {spread}", end="")
    print(f", peak memory {ratio['memory']:.2f}, above the start {ratio['memory_above_start']:.2f}")


def print_json(found: Figures, results: Figures) -> None:
    print(json.dumps({"workloads": results, **found}))
