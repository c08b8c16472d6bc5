"""Where a run came from: its code, its packages, its machine, and one fingerprint over all that decides its result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from r1.core.paths import ROOT

PACKAGES = ("torch", "transformers", "lightning", "hydra-core", "omegaconf", "datasets", "peft", "tokenizers", "numpy")
# what cannot change the result:
NOT_IN_FINGERPRINT = ("output_dir", "resume", "dry_run", "logger", "name", "checkpoint_every", "checkpoint_async")
# a pipeline's own keys, null in every run:
PIPELINE = ("steps", "shared", "seeds", "workers", "result", "page", "steps_dir")
# of a trainer, a stage and an engine:
DEVICES = ("devices", "num_nodes", "strategy", "timeout_s", "micro_batch_size", "url", "folder")
SOURCES = (".py", ".yaml")


def fingerprint(config: dict[str, Any], data: str, parents: list[dict[str, Any]]) -> str:
    """sha256 over the config that decides the trajectory, the code, the data and the parents' fingerprints.

    A parent counts as its fingerprint, wherever it lies; so do the rows that come from one, which it decides.
    """
    decided = replace_paths_by_fingerprint(fingerprinted_config(config), parents)
    named = config.get("data")
    rows = (
        data if decided.get("data") == named else [digest for leaf in flatten(named).values() for digest in _file(leaf)]
    )
    parts = [decided, code_hash(*config["extensions"]), rows, [parent["fingerprint"] for parent in parents]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def with_device_settings_of(config: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """``config`` with the devices and servers of another one: they decide who does the work, not what comes of it."""
    moved = {
        part: {key: other[part].get(key, value) if key in DEVICES else value for key, value in config[part].items()}
        for part in ("trainer", "stage", "rollout")
    }
    return config | moved


def replace_paths_by_fingerprint(node: Any, parents: list[dict[str, Any]]) -> Any:
    """The same containers with every path into a parent's folder written as the parent's fingerprint."""
    if isinstance(node, dict):
        return {key: replace_paths_by_fingerprint(part, parents) for key, part in node.items()}
    if isinstance(node, list):
        return [replace_paths_by_fingerprint(part, parents) for part in node]
    for parent in parents if isinstance(node, str) else ():
        if (place := Path(node).absolute()).is_relative_to(parent["path"]):
            return f"{parent['fingerprint']}/{place.relative_to(parent['path'])}"
    return node


def _file(path: Any) -> list[str]:
    """The sha256 of a file, if it is one."""
    if not (isinstance(path, str) and Path(path).is_file()):
        return []
    with Path(path).open("rb") as source:
        return [hashlib.file_digest(source, "sha256").hexdigest()]


def fingerprinted_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that decides the result."""
    return {key: value for key, value in config.items() if key not in (*NOT_IN_FINGERPRINT, *PIPELINE)}


@cache
def code_hash(*extensions: str) -> str:
    """sha256 over the source files of r1 and of the user's extensions."""
    digest = hashlib.sha256()
    for package in ("r1", *extensions):
        for name, file in _sources(package):
            digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _sources(package: str) -> Iterator[tuple[str, Path]]:
    """(name, file) of every module of a package, or of the module that it is."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(place).rglob("*.py")):
            yield f"{package}/{file.relative_to(place).as_posix()}", file
    if spec and spec.origin and not spec.submodule_search_locations:
        yield package, Path(spec.origin)


def rows_hash(*splits: list[dict[str, Any]]) -> str:
    """sha256 over dataset rows."""
    return hashlib.sha256(json.dumps(splits, sort_keys=True, default=str).encode()).hexdigest()


def describe(config: dict[str, Any]) -> dict[str, Any]:
    return {"git": git()} | environment(config)


def environment(config: dict[str, Any]) -> dict[str, Any]:
    """What the same config must find again to give the same bits."""
    return {"code": code_hash(*config["extensions"]), "packages": packages(), "hardware": hardware(config["threads"])}


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not as it was between two ``environment``, one line each."""
    found = ["the code has changed since"] if now["code"] != then["code"] else []
    for part in ("packages", "hardware"):
        before, after = then[part], now[part]
        names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        found += [f"{name} was {before.get(name)} and is {after.get(name)}" for name in names]
    return found


def git() -> dict[str, Any]:
    return {"commit": _git("rev-parse", "HEAD").strip() or None, "dirty": bool(_git("status", "--porcelain").strip())}


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted leaves: ``{"stage": {"lr": 1}}`` -> ``{"stage.lr": 1}``."""
    if not isinstance(node, dict):
        return {prefix: node}
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, value in a, value in b) for every leaf that differs; ``-`` where it is not there."""
    left, right = flatten(a), flatten(b)
    keys = sorted(left.keys() | right.keys())
    return [(k, left.get(k, "-"), right.get(k, "-")) for k in keys if left.get(k, "-") != right.get(k, "-")]


def diff() -> str:
    """What the working tree changes against the commit, new modules and options included."""
    new = _git("ls-files", "-z", "--others", "--exclude-standard", "--", "r1", "conf").split("\0")[:-1]
    plain = ("diff", "--no-ext-diff", "--no-color")
    added = [_git(*plain, "--no-index", "--", "/dev/null", name, ok=1) for name in new if Path(name).suffix in SOURCES]
    return "".join([_git(*plain, "HEAD"), *added])


def _git(*args: str, ok: int = 0) -> str:
    """What git prints; empty if there is no git, no repository, or it does not exit with ``ok``."""
    command = ["git", "-C", str(ROOT), *args]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == ok else ""


def packages() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(threads: int | None) -> dict[str, Any]:
    """The machine; ``threads`` of the CPU, None: torch's choice."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "gpus": gpus,
    }


def paths(config: dict[str, Any]) -> list[str]:
    """What a config reads from disk: the texts of all keys ``path`` and ``tokenizer``."""
    leaves = flatten(config).items()
    return [text for key, text in leaves if key.rpartition(".")[2] in ("path", "tokenizer") and isinstance(text, str)]


def parents(paths: list[str], planned: Mapping[str, str] = MappingProxyType({})) -> list[dict[str, Any]]:
    """Runs among ``paths`` (a run's folder, its ``model/`` or ``traces/``): where each lies and its fingerprint.

    ``planned`` has the fingerprints that runs yet to come will have, by their folders.
    """
    found = []
    for path in paths:
        for folder in [Path(path), *Path(path).parents][:3]:
            place = str(folder.absolute())
            if fingerprint := planned.get(place) or _read_fingerprint(folder / "manifest.json"):
                found.append({"path": place, "fingerprint": fingerprint})
                break
    return found


def _read_fingerprint(manifest: Path) -> str | None:
    """A run's fingerprint; None where there is no manifest, or one that is not r1's."""
    try:
        held = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return held.get("fingerprint") if isinstance(held, dict) else None


def write_config(folder: Path, config: dict[str, Any], overrides: list[str]) -> None:
    from omegaconf import OmegaConf

    for name, held in (("config.yaml", config), ("overrides.yaml", overrides)):
        (folder / name).write_text(OmegaConf.to_yaml(OmegaConf.create(held)), encoding="utf-8")
