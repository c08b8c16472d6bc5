"""Models as artifacts with their lineage (logger.log_model=true)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fakewandb import Server
from forkserver import Ended, ForkServer, knobs, log

from r1.core.runs import read_run

Run = Callable[..., Ended]
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_child_run_is_linked_to_its_parent_model(
    wandb_server: Server,
    wandb_env: dict[str, str],
    server: ForkServer,
    logged: Run,
    shell: Shell,
    tmp_path: Path,
    mode: str,
) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    options = [f"logger.mode={mode}", "logger.log_model=true"]
    assert logged("sft", *options, to=parent).code == 0
    start = [*options, "logger=wandb", "model=tiny", f"model.path={parent}"]
    overrides = [option for option in knobs("grpo", *start) if "model.config" not in option]
    assert server.run(overrides, child, env=wandb_env).code == 0, log(child)
    if mode == "offline":
        for folder in (parent, child):
            (run_dir,) = folder.glob("wandb/offline-run-*")
            done = shell("wandb", "sync", str(run_dir))
            assert done.returncode == 0, done.stderr
    models = {model["name"]: model for model in wandb_server.state.artifacts.values() if model["type"] == "model"}
    manifests = {folder: read_run(str(folder)).manifest for folder in (parent, child)}
    names = {folder: f"model-{manifest['fingerprint'][:12]}" for folder, manifest in manifests.items()}
    assert models.keys() == set(names.values())
    for folder, manifest in manifests.items():
        assert models[names[folder]]["metadata"] == {
            "fingerprint": manifest["fingerprint"],
            "parents": [parent["fingerprint"] for parent in manifest["parents"]],
            "val/pass@1": read_run(str(folder)).metrics[-1]["val/pass@1"],
        }
    link = ((child / "wandb_id").read_text(), models[names[parent]]["id"])
    assert wandb_server.state.used == ([link] if mode == "online" else [])  # offline, the client refuses it


@pytest.mark.long
def test_model_is_not_uploaded_by_default(wandb_server: Server, logged: Run) -> None:
    assert logged("sft").code == 0
    assert "model" not in {artifact["type"] for artifact in wandb_server.state.artifacts.values()}
