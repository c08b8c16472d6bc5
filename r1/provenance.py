"""Where a run came from: its code, its packages, its machine, and one fingerprint over all that decides its result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "lightning", "hydra-core", "omegaconf", "datasets", "wandb", "tokenizers", "numpy")
UNTRACED = ("output_dir", "resume", "dry_run", "logger", "name")  # keys that cannot change the result
ROOT = Path(__file__).parent.parent


def fingerprint(config: dict[str, Any], data: str, parents: list[dict[str, Any]]) -> str:
    """sha256 over the config that decides the trajectory, the code, the data and the parents' fingerprints."""
    traced = {key: value for key, value in config.items() if key not in UNTRACED}
    parts = [traced, code_hash(), data, [parent["fingerprint"] for parent in parents]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache
def code_hash() -> str:
    """sha256 over r1's own source files."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def rows_hash(*splits: list[dict[str, Any]]) -> str:
    """sha256 over dataset rows."""
    return hashlib.sha256(json.dumps(splits, sort_keys=True, default=str).encode()).hexdigest()


def describe() -> dict[str, Any]:
    return {"git": git(), "code": code_hash(), "packages": packages(), "hardware": hardware()}


def git() -> dict[str, Any]:
    return {"commit": _git("rev-parse", "HEAD").strip() or None, "dirty": bool(_git("status", "--porcelain").strip())}


def diff() -> str:
    """What the working tree changes against the commit."""
    return _git("diff", "HEAD")


def _git(*args: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def packages() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def parents(paths: list[str]) -> list[dict[str, Any]]:
    """Runs among ``paths`` (a run's folder, its ``model/`` or ``traces/``): where each lies and its fingerprint."""
    found = []
    for path in paths:
        for folder in [Path(path), *Path(path).parents][:3]:
            manifest = folder / "manifest.json"
            if manifest.is_file():
                held = json.loads(manifest.read_text())
                found.append({"path": str(folder.absolute()), "fingerprint": held["fingerprint"]})
                break
    return found


def write_config(folder: Path, config: dict[str, Any], overrides: list[str]) -> None:
    from omegaconf import OmegaConf

    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    (folder / "overrides.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(list(overrides))))
