"""Models as artifacts, with their lineage, where one asks for them."""

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
def test_a_child_is_linked_to_its_parent(
    wandb_server: Server,
    wandb_env: dict[str, str],
    server: ForkServer,
    logged: Run,
    shell: Shell,
    tmp_path: Path,
    mode: str,
) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    asked = [f"logger.mode={mode}", "logger.log_model=true"]
    assert logged("sft", *asked, to=parent).code == 0
    start = [*asked, "logger=wandb", "model=tiny", f"model.path={parent}"]
    begun = [option for option in knobs("grpo", *start) if "model.config" not in option]
    assert server.run(begun, child, env=wandb_env).code == 0, log(child)
    if mode == "offline":
        for folder in (parent, child):
            (kept,) = folder.glob("wandb/offline-run-*")
            done = shell("wandb", "sync", str(kept))
            assert done.returncode == 0, done.stderr
    models = {held["name"]: held for held in wandb_server.state.artifacts.values() if held["type"] == "model"}
    held = {folder: read_run(str(folder)).manifest for folder in (parent, child)}
    names = {folder: f"model-{manifest['fingerprint'][:12]}" for folder, manifest in held.items()}
    assert models.keys() == set(names.values())
    for folder, manifest in held.items():
        assert models[names[folder]]["metadata"] == {
            "fingerprint": manifest["fingerprint"],
            "parents": [parent["fingerprint"] for parent in manifest["parents"]],
            "val/pass@1": read_run(str(folder)).metrics[-1]["val/pass@1"],
        }
    link = ((child / "wandb_id").read_text(), models[names[parent]]["id"])
    assert wandb_server.state.used == ([link] if mode == "online" else [])  # which the client refuses offline


@pytest.mark.long
def test_no_artifact_of_a_model_by_default(wandb_server: Server, logged: Run) -> None:
    assert logged("sft").code == 0
    assert "model" not in {held["type"] for held in wandb_server.state.artifacts.values()}
