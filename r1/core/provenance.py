"""Where a run came from: its code, its packages, its machine, and one fingerprint over all that decides its result."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from r1.core.content_hash import file_hash, visible_files
from r1.core.files import write_atomic
from r1.core.inputs import hash_inputs, may_name_file, names_path
from r1.core.manifest import read_manifest
from r1.core.paths import ROOT
from r1.core.secrets import redact, redact_values
from r1.core.types import Config

PACKAGES = ("torch", "transformers", "lightning", "hydra-core", "omegaconf", "datasets", "peft", "tokenizers", "numpy")
# keys that cannot change the result:
NOT_IN_FINGERPRINT = (
    *("output_dir", "resume", "dry_run", "logger", "name"),
    *("checkpoint_every", "keep_checkpoints", "checkpoint_async"),
)
# keys of a pipeline, null in every run:
PIPELINE_KEYS = ("steps", "shared", "seeds", "workers", "result", "page", "steps_dir")
# keys of the trainer, the stage and the engine that say who does the work:
DEVICE_KEYS = (
    *("devices", "num_nodes", "strategy", "timeout_s"),
    *("micro_batch_size", "micro_batch_tokens", "url", "folder"),
)
SOURCE_SUFFIXES = (".py", ".yaml")


def fingerprint(
    config: Config, data: str, parents: list[dict[str, Any]], inputs: Mapping[str, str] | None = None
) -> str:
    """sha256 over the config that decides the trajectory, the code, the data, its files and the parents' fingerprints.

    A path into a parent's folder counts as the parent's fingerprint. Rows that come from a parent are decided by it, so
    that a pipeline knows the fingerprint before they exist; every other file that the config names counts by content.

    Args:
        data: ``Data.digest`` of the dataset; not used where the dataset reads from a parent.
        parents: as ``find_parents`` returns them.
        inputs: as ``input_hashes`` returns them; None: those of now.
    """
    inputs = input_hashes(config, parents) if inputs is None else inputs
    decided = replace_paths_by_fingerprint(fingerprinted_config(config), parents)
    rows = data if decided.get("data") == config.get("data") else ""
    parts = [
        decided,
        code_hash(*config["extensions"]),
        rows,
        dict(inputs),
        [parent["fingerprint"] for parent in parents],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def with_device_settings_of(config: Config, other: Config) -> dict[str, Any]:
    """``config`` with the devices and servers of another one, which cannot change the result."""
    parts = {
        part: {key: other[part].get(key, value) if key in DEVICE_KEYS else value for key, value in config[part].items()}
        for part in ("trainer", "stage", "rollout")
    }
    return config | parts


def replace_paths_by_fingerprint(node: Any, parents: list[dict[str, Any]]) -> Any:
    """The same containers with every path into a parent's folder written as the parent's fingerprint."""
    if isinstance(node, dict):
        return {key: replace_paths_by_fingerprint(part, parents) for key, part in node.items()}
    if isinstance(node, list):
        return [replace_paths_by_fingerprint(part, parents) for part in node]
    for parent in parents if isinstance(node, str) else ():
        if (path := Path(node).absolute()).is_relative_to(parent["path"]):
            return f"{parent['fingerprint']}/{path.relative_to(parent['path'])}"
    return node


def input_hashes(config: Config, parents: list[dict[str, Any]], planned: Iterable[str] = ()) -> dict[str, str]:
    """The content of all that a config names, as ``inputs.hash_inputs`` returns it.

    A path into a parent is left out where the parent's fingerprint and the hashes of its ``outputs`` stand for it.

    Args:
        planned: folders of parents that a pipeline has yet to run.
    """
    covered = [*planned, *(run["path"] for run in parents if read_manifest(Path(run["path"])).get("outputs"))]
    return hash_inputs(fingerprinted_config(config), covered)


def fingerprinted_config(config: Config) -> dict[str, Any]:
    """The part of a config that decides the result."""
    return {key: value for key, value in config.items() if key not in (*NOT_IN_FINGERPRINT, *PIPELINE_KEYS)}


@cache
def code_hash(*extensions: str) -> str:
    """sha256 over the source files of r1 and of the user's extensions."""
    digest = hashlib.sha256()
    for package in ("r1", *extensions):
        for name, file in _source_files(package):
            digest.update(name.encode() + b"\0" + file_hash(file).encode())
    return digest.hexdigest()


def _source_files(module: str) -> Iterator[tuple[str, Path]]:
    """(name, file) of every module of r1, of every file of another package, or of a module and the files it names.

    An extension may read word lists, prompts or weights.
    """
    package = module.partition(".")[0]
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in visible_files(Path(folder)):
            if package != "r1" or file.suffix == ".py":
                yield f"{package}/{file.relative_to(folder).as_posix()}", file
    if spec and spec.origin and not spec.submodule_search_locations:
        source = Path(spec.origin)
        yield package, source
        for text in sorted(_text_constants(source)):
            if (file := source.parent / text).is_file():
                yield f"{package}/{text}", file


def _text_constants(source: Path) -> set[str]:
    """The texts in a module's code that may be names of files."""
    if source.suffix != ".py":
        return set()
    constants = (node.value for node in ast.walk(ast.parse(source.read_bytes())) if isinstance(node, ast.Constant))
    return {text for text in constants if isinstance(text, str) and may_name_file(text)}


def rows_hash(*splits: list[dict[str, Any]]) -> str:
    """sha256 over dataset rows."""
    return hashlib.sha256(json.dumps(splits, sort_keys=True, default=str).encode()).hexdigest()


def environment(config: Config) -> dict[str, Any]:
    """The fields of a manifest about git, code, packages and hardware: if the last three are equal, so are the bits."""
    return {
        "git": git_state(),
        "code": code_hash(*config["extensions"]),
        "packages": package_versions(),
        "hardware": describe_hardware(config["threads"]),
    }


def environment_changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The differences between two results of ``environment``, one line each."""
    lines = ["the code has changed since"] if now["code"] != then["code"] else []
    for part in ("packages", "hardware"):
        before, after = then[part], now[part]
        names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        lines += [f"{name} was {before.get(name)} and is {after.get(name)}" for name in names]
    return lines


def git_state() -> dict[str, Any]:
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
    """(key, value in a, value in b) for every leaf that differs; ``-`` for a missing one."""
    left, right = flatten(a), flatten(b)
    keys = sorted(left.keys() | right.keys())
    return [(k, left.get(k, "-"), right.get(k, "-")) for k in keys if left.get(k, "-") != right.get(k, "-")]


def working_tree_diff() -> str:
    """The diff of the working tree against the commit, new modules and options included."""
    untracked = _git("ls-files", "-z", "--others", "--exclude-standard", "--", "r1", "conf").split("\0")[:-1]
    sources = [name for name in untracked if Path(name).suffix in SOURCE_SUFFIXES]
    command = ("diff", "--no-ext-diff", "--no-color")
    # `git diff` leaves untracked files out; compared with /dev/null they come out as new, and git exits with 1
    added = [_git(*command, "--no-index", "--", "/dev/null", name, exit_code=1) for name in sources]
    return "".join([_git(*command, "HEAD"), *added])


def _git(*args: str, exit_code: int = 0) -> str:
    """The output of git; empty if there is no git, no repository, or another exit code than expected."""
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *args]  # it would else write to the repository
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == exit_code else ""


def package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def describe_hardware(threads: int | None) -> dict[str, Any]:
    """The machine; ``threads`` on the CPU, None: torch's default."""
    import torch  # slow to import, and most commands never get here

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "gpus": gpus,
    }


def input_paths(config: Config) -> dict[str, str]:
    """The paths that a config reads from disk, and names of models on the hub, by config key."""
    leaves = flatten(config).items()
    return {key: text for key, text in leaves if names_path(key) and isinstance(text, str) and may_name_file(text)}


def find_parents(paths: Iterable[str], planned: Mapping[str, str] = MappingProxyType({})) -> list[dict[str, Any]]:
    """The runs that ``paths`` lie in (a run's folder, its ``model/`` or ``traces/``): ``{path, fingerprint}`` each.

    Args:
        planned: fingerprint by folder of runs that a pipeline has yet to start.
    """
    runs = []
    for path in paths:
        for folder in [Path(path), *Path(path).parents][:3]:
            name = str(folder.absolute())
            if fingerprint := planned.get(name) or read_manifest(folder).get("fingerprint"):
                runs.append({"path": name, "fingerprint": fingerprint})
                break
    return runs


def write_sources(folder: Path, config: Config, overrides: list[str]) -> None:
    """Write ``config.yaml``, ``overrides.yaml`` and ``code.diff`` into a record, without secrets."""
    from omegaconf import OmegaConf

    for name, content in (("config.yaml", config), ("overrides.yaml", overrides)):
        write_atomic(folder / name, OmegaConf.to_yaml(OmegaConf.create(redact(content))))
    write_atomic(folder / "code.diff", redact_values(working_tree_diff()))
