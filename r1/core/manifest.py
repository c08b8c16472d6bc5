"""``manifest.json``, the summary of a record: written for runs and for pipelines, and read back."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from r1.core.errors import Interrupted, TrainingHalted, UserError
from r1.core.files import write_atomic
from r1.core.secrets import redact
from r1.core.storage import damaged, parse_json, read_text

FILE = "manifest.json"
SCHEMA = 1
TYPES: dict[str, type] = {"status": str, "fingerprint": str, "parents": list, "metrics": dict, "packages": dict}
TYPES |= {"overrides": list, "git": dict, "command": str, "steps": list}
STEP_TYPES = {"name": str, "seed": int | None, "path": str, "status": str, "wall_s": int | float, "needs": list}
ESTIMATE = ("value", "low", "high", "n")
STATUS_BY_ERROR = (((Interrupted, KeyboardInterrupt), "interrupted"), (TrainingHalted, "halted"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a folder; empty if there is none, or none that can be read."""
    try:
        return load_manifest(folder / FILE)
    except UserError:
        return {}


def load_manifest(file: Path) -> dict[str, Any]:
    """The manifest in a file.

    Raises:
        UserError: it cannot be read, or is not a manifest.
    """
    try:
        manifest = parse_json(read_text(file))
    except ValueError:
        raise damaged(file, "it is not JSON") from None
    if not isinstance(manifest, dict):
        raise damaged(file, "it is not a JSON object")
    for key, kind in TYPES.items():
        if manifest.get(key) is not None and not isinstance(manifest[key], kind):
            raise damaged(file, f"`{key}` has a value of another kind")
    for key, is_valid in CHECKS.items():
        if manifest.get(key) is not None and not is_valid(manifest[key]):
            raise damaged(file, f"`{key}` has an entry of another kind")
    return manifest


def _are_metrics(node: object) -> bool:
    """Whether it is ``{"start": {name: estimate}, ...}``."""
    if not isinstance(node, dict) or not all(isinstance(estimates, dict) for estimates in node.values()):
        return False
    return all(_is_estimate(estimate) for estimates in node.values() for estimate in estimates.values())


def _is_estimate(node: object) -> bool:
    return isinstance(node, dict) and all(isinstance(node.get(name), int | float) for name in ESTIMATE)


def _are_parents(nodes: list[Any]) -> bool:
    return all(isinstance(node, dict) and _are_texts([node.get("path"), node.get("fingerprint")]) for node in nodes)


def _are_steps(nodes: list[Any]) -> bool:
    """Whether they are the steps of a pipeline, as its record writes them."""
    return all(
        isinstance(node, dict)
        and all(key in node and isinstance(node[key], kind) for key, kind in STEP_TYPES.items())
        and _are_texts(node["needs"])
        and ("metrics" in node and (node["metrics"] is None or _are_metrics(node["metrics"])))
        for node in nodes
    )


def _are_texts(nodes: list[Any]) -> bool:
    return all(isinstance(node, str) for node in nodes)


CHECKS = {"metrics": _are_metrics, "overrides": _are_texts, "parents": _are_parents, "steps": _are_steps}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_atomic(folder / FILE, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def close_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a run that has ended. On a full disk only its status is changed, which needs no room.

    Raises:
        OSError: it could not be written, and the run has no error yet.
    """
    try:
        write_manifest(folder, manifest)
    except OSError:
        with suppress(OSError):
            _overwrite_status(folder / FILE, manifest["status"] if manifest["error"] else "failed")
        if not manifest["error"]:
            raise


def _overwrite_status(file: Path, status: str) -> None:
    """Change ``running`` to another status in place, by one write of as many bytes."""
    before = b'"status": "running",\n  "error": null,'
    with file.open("r+b", buffering=0) as out:
        position = out.read().find(before)
        if position >= 0:
            os.pwrite(out.fileno(), f'"status":"{status}","error":null,'.encode().ljust(len(before)), position)


def manifest_header(
    status: str, error: BaseException | None, message: str, command: str, overrides: list[str]
) -> dict[str, Any]:
    """The first fields of a manifest, without secrets; ``message`` is what it says of the error."""
    return {
        "schema": SCHEMA,
        "status": status,
        "error": redact(f"{type(error).__name__}: {message}") if error else None,
        "command": shlex.join(redact(shlex.split(command))),
        "overrides": redact(overrides),
    }


def status_of(error: BaseException | None) -> str:
    """The status of a run that ended with this error, or with none."""
    if error is None:
        return "finished"
    return next((status for kinds, status in STATUS_BY_ERROR if isinstance(error, kinds)), "failed")


def time_now() -> str:
    """The local time with its offset from UTC, in seconds (ISO 8601)."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
