"""The room that a run's checkpoints and models take on the disk, and the order in which files come and go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from r1.core.errors import MODEL, UserError
from r1.core.files import link_equal_files
from r1.core.outputs import damaged_outputs
from r1.core.runs import read_run
from r1.run import execute
from r1.stage.base import Stage
from r1.train import checkpoint_files

Runner = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft alone
SFT = ["stage=sft", "checkpoint_every=1", "trainer.max_steps=2", "val.at_start=false", "val.num_prompts=1"]
SFT += ["stage.schedule=constant", "stage.warmup_steps=0"]
WIDE = ["model.config.hidden_size=160", "model.config.intermediate_size=320"]  # a tokenizer is small beside it
LORA = ["+model/lora=default", "model.lora.r=128"]


@pytest.fixture(scope="module")
def run(small: Callable[..., dict[str, Any]]) -> Runner:
    """``run(folder, ...)``: a run of two steps, a checkpoint after each, and a validation after the second."""

    def runner(folder: Path, *overrides: str) -> Path:
        execute(small(*SFT, *overrides, f"output_dir={folder}"), [])
        return folder

    return runner


def size(folder: Path) -> int:
    """Bytes on the disk below a folder; a file with two names counts once."""
    files = {(s := path.stat()).st_ino: s.st_size for path in folder.rglob("*") if path.is_file()}
    return sum(files.values())


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of the record after each checkpoint."""
    publish, found = checkpoint_files.publish, []

    def weighing(partial: Path, final: Path, keep: int) -> None:
        publish(partial, final, keep)
        found.append(size(final.parent.parent))

    monkeypatch.setattr(checkpoint_files, "publish", weighing)
    return found


def test_run_that_keeps_one_checkpoint_has_one_file_for_best_and_model(
    run: Runner, folder: Path, tmp_path: Path, sizes: list[int]
) -> None:
    run(folder, *WIDE, "keep_checkpoints=1")
    best, model = (folder / part / "model.safetensors" for part in ("best", "model"))
    weights = model.stat().st_size
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_000002"]
    assert len(sizes) == 2
    assert 3 * weights < max(*sizes, size(folder)) <= 4.1 * weights
    assert best.samefile(model)
    copied = shutil.copytree(folder, tmp_path / "copied")
    assert read_run(str(copied)).manifest == read_run(str(folder)).manifest
    assert damaged_outputs(copied) == damaged_outputs(folder) == []
    content = best.read_bytes()
    run(folder, *WIDE, "keep_checkpoints=1", "trainer.max_steps=3", "resume=auto")
    assert best.read_bytes() == content != model.read_bytes()
    assert damaged_outputs(folder) == []


def test_run_that_keeps_no_checkpoint_leaves_its_model_alone(run: Runner, folder: Path) -> None:
    knobs = [*WIDE, "keep_checkpoints=0"]
    run(folder, *knobs)
    assert size(folder) <= 1.1 * (folder / "model" / "model.safetensors").stat().st_size
    assert not (folder / "checkpoints").exists()
    before = (folder / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match="its checkpoints were removed") as caught:
        run(folder, *knobs, "trainer.max_steps=3", "resume=auto")
    assert caught.value.key == "resume"
    assert (folder / "metrics.jsonl").read_text() == before


def test_checkpoint_of_adapters_holds_them_and_their_moments_and_needs_the_same_base(
    run: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, *LORA)
    checkpoint = folder / "checkpoints" / "step_000002"
    saved = torch.load(checkpoint / "state.ckpt", weights_only=True)
    adapters = sum(weight.numel() for weight in saved["state_dict"].values())
    assert all(".lora_" in name for name in saved["state_dict"])
    assert size(checkpoint) <= 1.05 * 3 * 4 * adapters

    load = Stage.load_policy

    def load_another(stage: Stage) -> Any:
        policy: Any = load(stage)
        with torch.no_grad():
            policy.get_base_model().model.norm.weight[0] += 1e-3
        return policy

    monkeypatch.setattr(Stage, "load_policy", load_another)
    with pytest.raises(UserError, match="frozen weights are not those") as caught:
        run(folder, *LORA, "resume=auto", "trainer.max_steps=3")
    assert (caught.value.code, caught.value.key) == (MODEL, "model.path")


def test_old_checkpoint_is_removed_after_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rmtree = shutil.rmtree
    for step in (1, 2, 3):
        partial, final = tmp_path / f"step_{step:06d}.tmp.1", tmp_path / f"step_{step:06d}"
        partial.mkdir()
        for name in ("state.ckpt", "files.json"):
            (partial / name).write_text("{}")

        def check(folder: Path, new: Path = final) -> None:
            assert checkpoint_files._checksum_ok(new)
            assert folder.name.endswith(".tmp.old")  # no checkpoint's name: a kill leaves no half of one
            rmtree(folder)

        monkeypatch.setattr(shutil, "rmtree", check)
        checkpoint_files.publish(partial, final, 1)
        assert [path.name for path in tmp_path.iterdir()] == [final.name]


# ---- one file under two names ----


def folders(tmp_path: Path) -> tuple[Path, Path]:
    best, model = tmp_path / "best", tmp_path / "model"
    for folder, text in ((best, "old"), (model, "new")):
        folder.mkdir()
        (folder / "same").write_text("equal")
        (folder / "other").write_text(text)
    (model / "more").touch()
    return best, model


def test_equal_files_of_two_folders_become_one_file(tmp_path: Path) -> None:
    best, model = folders(tmp_path)
    link_equal_files(best, model)
    assert (best / "same").samefile(model / "same")
    assert [(best / "other").read_text(), (model / "other").read_text()] == ["old", "new"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["best", "model", "same", "same", "other", "other", "more"]
    )


def test_without_hard_links_equal_files_stay_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    best, model = folders(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    link_equal_files(best, model)
    assert not (best / "same").samefile(model / "same")
    assert (best / "same").read_text() == (model / "same").read_text() == "equal"
