"""``checkpoint_async=true``: a checkpoint written in the background equals one written between two steps."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from forkserver import ForkServer, UninterruptedRuns, knobs, log
from killpoints import Point
from samerun import assert_same_run, manifest

from r1.strategy.checkpoint_io import DirectCheckpointIO
from r1.train import checkpoint_files
from r1.train.checkpoint_files import CheckpointWriter

ASYNC, STEP = "checkpoint_async=true", "r1.stage.training.base:TrainingStage.configure_gradient_clipping"


@pytest.mark.parametrize("kind", ["grpo", pytest.param("sft", marks=pytest.mark.long)])
def test_async_checkpoint_of_stopped_run_resumes_to_same_result(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, folder: Path, kind: str
) -> None:
    expected, _ = uninterrupted_run(kind)
    point = Point(STEP, call=3, number=signal.SIGTERM)
    assert server.run(knobs(kind, ASYNC), folder, point).code == 143, log(folder)
    assert checkpoint_files.latest(folder / "checkpoints", 2) == folder / "checkpoints" / "step_000003" / "state.ckpt"
    assert server.run(knobs(kind, ASYNC), folder, resume=True).code == 0, log(folder)
    assert_same_run(expected, folder)
    resumed, expected_state = (torch.load(run / "checkpoints/step_000006/state.ckpt") for run in (folder, expected))
    assert_equal(resumed["state_dict"], expected_state["state_dict"])
    assert_equal(resumed["optimizer_states"], expected_state["optimizer_states"])


def assert_equal(a: object, b: object) -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert isinstance(b, dict)
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert isinstance(b, list | tuple)
        for left, right in zip(a, b, strict=True):
            assert_equal(left, right)
    else:
        assert a == b


@pytest.mark.long
@pytest.mark.parametrize("call", range(1, 4))
def test_async_checkpoint_killed_while_writing_resumes_to_same_result(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, folder: Path, call: int
) -> None:
    assert server.run(knobs("grpo", ASYNC), folder, Point("torch:save", call=call)).code == -9
    assert server.run(knobs("grpo", ASYNC), folder, resume=True).code == 0, log(folder)
    assert_same_run(uninterrupted_run("grpo")[0], folder)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_async_checkpoint_of_shards_resumes_to_same_result(server: ForkServer, folder: Path, strategy: str) -> None:
    several = [f"strategy={strategy}", "trainer.devices=2", "stage.micro_batch_size=2"]
    expected = folder.with_name("expected")
    assert server.run(knobs("sft", *several), expected).code == 0, log(expected)
    point = Point(STEP, call=3, number=signal.SIGTERM)
    assert server.run(knobs("sft", *several, ASYNC), folder, point, rank=1).code == 143, log(folder)
    assert server.run(knobs("sft", *several, ASYNC), folder, resume=True).code == 0, log(folder)
    assert manifest(folder)["status"] == "finished"
    assert_same_run(expected, folder)


def test_deferred_write_saves_the_state_at_the_time_of_the_copy(tmp_path: Path) -> None:
    weight, counts = torch.zeros(3), {"step": [1]}
    io = DirectCheckpointIO(in_background=True)
    io.save_checkpoint({"weight": weight, "tied": weight, "counts": counts}, tmp_path / "state.ckpt")
    weight += 1
    counts["step"].append(2)
    assert not list(tmp_path.iterdir())
    write = io.take_deferred_write()
    assert write
    write()
    saved = torch.load(tmp_path / "state.ckpt")
    assert saved["weight"].tolist() == [0, 0, 0]
    assert saved["counts"] == {"step": [1]}
    assert saved["weight"].data_ptr() == saved["tied"].data_ptr()


def test_checkpoint_writer_check_raises_the_error_of_its_thread(tmp_path: Path) -> None:
    io, writer = (
        DirectCheckpointIO(in_background=True),
        CheckpointWriter(tmp_path / "partial", tmp_path / "final", is_rank_zero=True, keep=2),
    )
    io.save_checkpoint({"weight": torch.zeros(100_000)}, "/dev/full")
    writer.write = io.take_deferred_write()
    writer.start()
    writer.join()
    with pytest.raises(OSError, match="No space left"):
        writer.check()


@pytest.mark.long
def test_async_checkpoint_on_full_disk_keeps_training(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, folder: Path
) -> None:
    assert server.run(knobs("grpo", ASYNC), folder, full=(2, 3)).code == 0, log(folder)
    assert log(folder).count("could not be written") == 1
    assert not list(folder.rglob("*.tmp.*"))
    assert_same_run(uninterrupted_run("grpo")[0], folder)
