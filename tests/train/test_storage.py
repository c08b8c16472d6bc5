"""Runs on a faulty disk: damaged checkpoints, truncated lines, no room."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forkserver import ForkServer, UninterruptedRuns, knobs, log
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killpoints import Point
from samerun import assert_same_run, manifest

from r1.core import jsonl
from r1.core.errors import STORAGE
from r1.strategy.checkpoint_io import DirectCheckpointIO
from r1.train import checkpoint_files
from r1.train.record import Record

pytestmark = pytest.mark.slow

FILES = ("state.ckpt", "files.json", "sha256")
NO_ROOM = "could not be written"


def flip_bit(file: Path, position: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[position % len(content)] ^= 1 << bit
    file.write_bytes(content)


def truncate_to_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit is flipped": lambda file: flip_bit(file, file.stat().st_size // 2, 0),
    "the end is missing": truncate_to_half,
    "the file is missing": Path.unlink,
}

# ---- damaged checkpoints ----


@pytest.fixture(scope="module")
def killed(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its fifth step, with checkpoints of the fourth and the fifth."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    ended = server.run(knobs("kl"), folder, Point("os:rename", "after", match="step_000006"))
    assert ended.code == -9
    shutil.rmtree(folder / "checkpoints" / "step_000006")
    return folder


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("name", FILES)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0))
def test_latest_with_one_flipped_bit_skips_the_checkpoint(
    killed: Path, tmp_path: Path, name: str, bit: int, position: int
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(killed / "checkpoints", folder, dirs_exist_ok=True)
    shutil.copy(killed / "metrics.jsonl", tmp_path)
    flip_bit(folder / "step_000005" / name, position, bit)
    assert checkpoint_files.latest(folder, 2) == folder / "step_000004" / "state.ckpt"
    assert [path.name for path in folder.iterdir()] == ["step_000004"]


@pytest.mark.parametrize(("name", "damage"), list(zip(FILES, DAMAGE, strict=True)))
def test_run_with_damaged_checkpoint_resumes_from_the_one_before(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, killed: Path, folder: Path, name: str, damage: str
) -> None:
    shutil.copytree(killed, folder)
    DAMAGE[damage](folder / "checkpoints" / "step_000005" / name)
    assert server.run(knobs("kl"), folder, resume=True).code == 0, log(folder)
    assert "step_000005 is damaged and is skipped" in log(folder)
    assert_same_run(uninterrupted_run("kl")[0], folder)
    shutil.rmtree(folder / "checkpoints" / "step_000006")
    assert checkpoint_files.latest(folder / "checkpoints", 2) == folder / "checkpoints" / "step_000005" / "state.ckpt"


def test_run_with_only_damaged_checkpoints_fails_and_changes_nothing(
    server: ForkServer, killed: Path, folder: Path
) -> None:
    shutil.copytree(killed, folder)
    for step in (4, 5):
        truncate_to_half(folder / "checkpoints" / f"step_{step:06d}" / "state.ckpt")
    for _ in range(2):  # the first attempt has changed nothing
        assert server.run(knobs("kl"), folder, resume=True).code == STORAGE
        assert [f.name for f in sorted((folder / "checkpoints").iterdir())] == ["step_000004", "step_000005"]
    assert "every checkpoint of this run is damaged" in log(folder)
    assert (folder / "metrics.jsonl").stat().st_size > 0


# ---- truncated lines ----


def unopened_record(folder: Path) -> Record:
    """A record of which only the folder is set."""
    record = Record.__new__(Record)
    record.dir, record._is_extended = folder, False
    return record


ROWS = [{"step": i, "text": "é\u2028" * i} for i in range(4)]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncate_files_at_any_length_leaves_complete_lines(tmp_path: Path, data: st.DataObject) -> None:
    """The file had ``earlier`` bytes at the checkpoint, and has ``now`` bytes."""
    lines = [jsonl.row_to_line(row).encode() for row in ROWS]
    content, file = b"".join(lines), tmp_path / "metrics.jsonl"
    earlier = sum(map(len, lines[: data.draw(st.integers(0, len(lines)))]))
    now = data.draw(st.integers(0, len(content)))
    file.write_bytes(content[:now])
    Record.truncate_files(unopened_record(tmp_path), {"metrics.jsonl": earlier})
    assert file.read_bytes() in (content[:earlier], content[: content.rfind(b"\n", 0, now) + 1])
    assert file.stat().st_size <= min(earlier, now)
    jsonl.append_rows(file, ROWS[:1])
    assert jsonl.read_rows(file)[-1] == ROWS[0]


def test_truncate_files_of_shortened_file_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "samples.jsonl").write_text('{"a": 1}\n{"a"')
    Record.truncate_files(unopened_record(tmp_path), {"samples.jsonl": 20})
    assert "samples.jsonl has lost 7 bytes" in capsys.readouterr().err
    assert (tmp_path / "samples.jsonl").read_text() == '{"a": 1}\n'


# ---- no room for a checkpoint ----


@pytest.mark.parametrize("full", [(1, 2), (2, 3), (6, 6)])
def test_run_on_full_disk_keeps_training(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, folder: Path, full: tuple[int, int]
) -> None:
    assert server.run(knobs("grpo"), folder, full=full).code == 0, log(folder)
    warnings = [line for line in log(folder).splitlines() if "warning" in line and "were cut off" not in line]
    assert len(warnings) == log(folder).count(NO_ROOM) == 1
    assert not list(folder.rglob("*.tmp.*"))
    if full != (6, 6):  # else the last step is missing among the checkpoints
        assert_same_run(uninterrupted_run("grpo")[0], folder)


def test_checkpoint_io_on_full_disk_stores_the_os_error() -> None:
    io = DirectCheckpointIO()
    io.save_checkpoint({"weights": torch.zeros(100_000)}, "/dev/full")
    assert isinstance(io.error, OSError)
    assert "No space left" in str(io.error)


def test_checkpoint_is_not_moved_from_the_temporary_folder(server: ForkServer, folder: Path) -> None:
    """That folder may be on another disk, or full; a run killed there would leave its file."""
    assert server.run(knobs("sft"), folder, Point("shutil:move")).code == 0, log(folder)


@pytest.mark.parametrize(("keep", "kept"), [(2, ["step_000001", "step_000002"]), (1, ["step_000002"])])
def test_run_on_disk_that_stays_full_fails_and_can_be_resumed(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, folder: Path, keep: int, kept: list[str]
) -> None:
    run = knobs("grpo", f"keep_checkpoints={keep}")
    assert server.run(run, folder, full=(3, 9)).code == STORAGE
    assert "3 checkpoints in a row could not be written: [Errno 27] File too large" in log(folder)
    assert manifest(folder)["status"] == "failed"
    assert [f.name for f in sorted((folder / "checkpoints").iterdir())] == kept
    assert server.run(run, folder, resume=True).code == 0, log(folder)
    assert_same_run(uninterrupted_run("grpo")[0], folder, checkpoints=keep == 2)


def test_run_stopped_on_full_disk_resumes_to_same_result(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, folder: Path
) -> None:
    point = Point("r1.stage.grpo:Grpo.training_step", call=10, number=signal.SIGTERM)
    assert server.run(knobs("grpo"), folder, point, full=(3, 4)).code == 143, log(folder)
    assert [f.name for f in sorted((folder / "checkpoints").iterdir())] == ["step_000001", "step_000002"]
    assert server.run(knobs("grpo"), folder, resume=True).code == 0, log(folder)
    assert_same_run(uninterrupted_run("grpo")[0], folder)
