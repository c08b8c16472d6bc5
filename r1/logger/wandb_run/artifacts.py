"""Models as W&B artifacts, named after the fingerprint of their run, so that a child run can link them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from r1.core.runs import read_run

if TYPE_CHECKING:
    import wandb


def log_model(run: wandb.Run, folder: Path) -> None:
    """Upload the final model of the record in ``folder``, if it has one."""
    if artifact := model_artifact(folder, read_run(str(folder)).manifest["fingerprint"]):
        run.log_artifact(artifact)


def use_parent_models(run: wandb.Run, folder: Path) -> list[str]:
    """Link the run to the models of its parents; a model that W&B lacks is uploaded.

    Returns the errors: a missing link must not fail the run.
    """
    errors = []
    for parent in read_run(str(folder)).manifest["parents"]:
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
    record = read_run(str(folder))
    metadata = {
        "fingerprint": fingerprint,
        "parents": [parent["fingerprint"] for parent in record.manifest["parents"]],
        "val/pass@1": next((row["val/pass@1"] for row in reversed(record.metrics) if "val/pass@1" in row), None),
    }
    artifact = wandb.Artifact(f"model-{fingerprint[:12]}", type="model", metadata=metadata)
    artifact.add_dir(str(folder / "model"), policy="immutable")
    return artifact
