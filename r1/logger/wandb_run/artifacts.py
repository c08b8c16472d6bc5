"""Models as W&B's artifacts, named after the fingerprint of the run that made them, so that a child can name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1.core import jsonl

if TYPE_CHECKING:
    import wandb


def log_model(run: wandb.Run, folder: Path) -> None:
    """The final model of the record in ``folder``, if the run made one."""
    if artifact := model(folder, _manifest(folder)["fingerprint"]):
        run.log_artifact(artifact)


def use_parents(run: wandb.Run, folder: Path) -> list[str]:
    """Say that the run starts from the models of its parents; one that W&B does not have yet goes up with it.

    Returns what W&B did not take: a link is not worth a run.
    """
    refused = []
    for parent in _manifest(folder)["parents"]:
        try:
            if artifact := model(Path(parent["path"]), parent["fingerprint"]):
                run.use_artifact(artifact)
        except Exception as error:  # W&B raises many kinds
            refused.append(f"no link to the model of {parent['path']}: {type(error).__name__}: {error}")
    return refused


def model(folder: Path, fingerprint: str) -> wandb.Artifact | None:
    """The same files give the same artifact, whichever run names it."""
    import wandb

    if not (folder / "model").is_dir():
        return None
    parents = [parent["fingerprint"] for parent in _manifest(folder)["parents"]]
    metadata = {"fingerprint": fingerprint, "parents": parents, "val/pass@1": _last(folder, "val/pass@1")}
    artifact = wandb.Artifact(f"model-{fingerprint[:12]}", type="model", metadata=metadata)
    artifact.add_dir(str(folder / "model"), policy="immutable")
    return artifact


def _manifest(folder: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return held


def _last(folder: Path, name: str) -> float | None:
    rows = jsonl.read(folder / "metrics.jsonl")
    return next((row[name] for row in reversed(rows) if name in row), None)
