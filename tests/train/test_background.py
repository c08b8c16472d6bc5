"""``checkpoint_async=true``: what is written beside training is what would have been written in it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from forkserver import ForkServer, Whole, knobs, log
from killpoints import Point
from samerun import assert_same_run, manifest

from r1.train import checkpoint
from r1.train.checkpoint_files import CheckpointWriter, DirectCheckpointIO

ASYNC, STEP = "checkpoint_async=true", "r1.stage.training.base:TrainingStage.configure_gradient_clipping"


@pytest.mark.parametrize("kind", ["grpo", pytest.param("sft", marks=pytest.mark.long)])
def test_a_stopped_run_goes_on_to_the_same_end(server: ForkServer, whole_run: Whole, folder: Path, kind: str) -> None:
    expected, _ = whole_run(kind)
    point = Point(STEP, call=3, number=signal.SIGTERM)
    assert server.run(knobs(kind, ASYNC), folder, point).code == 143, log(folder)
    assert checkpoint.latest(folder / "checkpoints") == folder / "checkpoints" / "step_000003" / "state.ckpt"
    assert server.run(knobs(kind, ASYNC), folder, resume=True).code == 0, log(folder)
    assert_same_run(expected, folder)
    ours, theirs = (torch.load(run / "checkpoints/step_000006/state.ckpt") for run in (folder, expected))
    assert_equal(ours["state_dict"], theirs["state_dict"])
    assert_equal(ours["optimizer_states"], theirs["optimizer_states"])


def assert_equal(ours: object, theirs: object) -> None:
    if isinstance(ours, torch.Tensor):
        assert isinstance(theirs, torch.Tensor)
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert isinstance(theirs, dict)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert isinstance(theirs, list | tuple)
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b)
    else:
        assert ours == theirs


@pytest.mark.long
@pytest.mark.parametrize("call", range(1, 4))
def test_a_run_that_is_killed_while_it_writes_goes_on(
    server: ForkServer, whole_run: Whole, folder: Path, call: int
) -> None:
    assert server.run(knobs("grpo", ASYNC), folder, Point("torch:save", call=call)).code == -9
    assert server.run(knobs("grpo", ASYNC), folder, resume=True).code == 0, log(folder)
    assert_same_run(whole_run("grpo")[0], folder)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_shards_are_written_in_the_background_too(server: ForkServer, folder: Path, strategy: str) -> None:
    several = [f"strategy={strategy}", "trainer.devices=2", "stage.micro_batch_size=2"]
    whole = folder.with_name("whole")
    assert server.run(knobs("sft", *several), whole).code == 0, log(whole)
    point = Point(STEP, call=3, number=signal.SIGTERM)
    assert server.run(knobs("sft", *several, ASYNC), folder, point, rank=1).code == 143, log(folder)
    assert server.run(knobs("sft", *several, ASYNC), folder, resume=True).code == 0, log(folder)
    assert manifest(folder)["status"] == "finished"
    assert_same_run(whole, folder)


def test_the_copy_does_not_change_with_what_it_was_made_of(tmp_path: Path) -> None:
    weight, counts = torch.zeros(3), {"step": [1]}
    io = DirectCheckpointIO(in_background=True)
    io.save_checkpoint({"weight": weight, "tied": weight, "counts": counts}, tmp_path / "state.ckpt")
    weight += 1
    counts["step"].append(2)
    assert not list(tmp_path.iterdir())
    assert io.write
    io.write()
    found = torch.load(tmp_path / "state.ckpt")
    assert found["weight"].tolist() == [0, 0, 0]
    assert found["counts"] == {"step": [1]}
    assert found["weight"].data_ptr() == found["tied"].data_ptr()


def test_an_error_is_kept_for_whoever_waits(tmp_path: Path) -> None:
    io, writing = (
        DirectCheckpointIO(in_background=True),
        CheckpointWriter(tmp_path / "partial", tmp_path / "final", first=True),
    )
    io.save_checkpoint({"weight": torch.zeros(100_000)}, "/dev/full")
    writing.write = io.write
    writing.start()
    writing.join()
    with pytest.raises(OSError, match="No space left"):
        writing.check()


@pytest.mark.long
def test_a_full_disk_costs_checkpoints_and_nothing_else(server: ForkServer, whole_run: Whole, folder: Path) -> None:
    assert server.run(knobs("grpo", ASYNC), folder, full=(2, 3)).code == 0, log(folder)
    assert log(folder).count("could not be written") == 1
    assert not list(folder.rglob("*.tmp.*"))
    assert_same_run(whole_run("grpo")[0], folder)
