"""Models as W&B artifacts, named after the fingerprint of their run, so that a child run can link them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1.core import jsonl

if TYPE_CHECKING:
    import wandb


def log_model(run: wandb.Run, folder: Path) -> None:
    """Upload the final model of the record in ``folder``, if it has one."""
    if artifact := model_artifact(folder, _manifest(folder)["fingerprint"]):
        run.log_artifact(artifact)


def use_parent_models(run: wandb.Run, folder: Path) -> list[str]:
    """Link the run to the models of its parents; a model that W&B lacks is uploaded.

    Returns the errors: a missing link must not fail the run.
    """
    errors = []
    for parent in _manifest(folder)["parents"]:
        try:
            if artifact := model_artifact(Path(parent["path"]), parent["fingerprint"]):
                run.use_artifact(artifact)
        except Exception as error:  # W&B raises many kinds
            errors.append(f"no link to the model of {parent['path']}: {type(error).__name__}: {error}")
    return errors


def model_artifact(folder: Path, fingerprint: str) -> wandb.Artifact | None:
    """The same files give the same artifact, whichever run creates it."""
    import wandb

    if not (folder / "model").is_dir():
        return None
    parents = [parent["fingerprint"] for parent in _manifest(folder)["parents"]]
    metadata = {"fingerprint": fingerprint, "parents": parents, "val/pass@1": _last_value(folder, "val/pass@1")}
    artifact = wandb.Artifact(f"model-{fingerprint[:12]}", type="model", metadata=metadata)
    artifact.add_dir(str(folder / "model"), policy="immutable")
    return artifact


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def _last_value(folder: Path, name: str) -> float | None:
    rows = jsonl.read_rows(folder / "metrics.jsonl")
    return next((row[name] for row in reversed(rows) if name in row), None)
