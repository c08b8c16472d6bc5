"""What a disk can do to a run: damage to its checkpoints, lines that end in the middle, no room."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forkserver import ForkServer, Whole, knobs, log
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killpoints import Point
from samerun import assert_same_run, manifest

from r1.core import jsonl
from r1.core.errors import STORAGE
from r1.train import checkpoint
from r1.train.checkpoint_files import DirectCheckpointIO
from r1.train.record import Record

FILES = ("state.ckpt", "files.json", "sha256")
NO_ROOM = "could not be written"


def flip(file: Path, place: int, bit: int) -> None:
    held = bytearray(file.read_bytes())
    held[place % len(held)] ^= 1 << bit
    file.write_bytes(held)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit is flipped": lambda file: flip(file, file.stat().st_size // 2, 0),
    "the end is missing": cut,
    "it is gone": Path.unlink,
}

# ---- damaged checkpoints ----


@pytest.fixture(scope="module")
def killed(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed behind its fifth step, with checkpoints of the fourth and the fifth."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    ended = server.run(knobs("kl"), folder, Point("os:rename", "after", match="step_000006"))
    assert ended.code == -9
    shutil.rmtree(folder / "checkpoints" / "step_000006")
    return folder


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("name", FILES)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0))
def test_one_bit_anywhere_is_found(killed: Path, tmp_path: Path, name: str, bit: int, place: int) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(killed / "checkpoints", folder, dirs_exist_ok=True)
    flip(folder / "step_000005" / name, place, bit)
    assert checkpoint.latest(folder) == folder / "step_000004" / "state.ckpt"
    assert [path.name for path in folder.iterdir()] == ["step_000004"]


@pytest.mark.parametrize(("name", "damage"), list(zip(FILES, DAMAGE, strict=True)))
def test_a_run_goes_on_from_the_checkpoint_before(
    server: ForkServer, whole_run: Whole, killed: Path, folder: Path, name: str, damage: str
) -> None:
    shutil.copytree(killed, folder)
    DAMAGE[damage](folder / "checkpoints" / "step_000005" / name)
    assert server.run(knobs("kl"), folder, resume=True).code == 0, log(folder)
    assert "step_000005 is damaged and passed over" in log(folder)
    assert_same_run(whole_run("kl")[0], folder)
    shutil.rmtree(folder / "checkpoints" / "step_000006")
    assert checkpoint.latest(folder / "checkpoints") == folder / "checkpoints" / "step_000005" / "state.ckpt"


def test_a_run_without_a_good_checkpoint_is_not_begun_again(server: ForkServer, killed: Path, folder: Path) -> None:
    shutil.copytree(killed, folder)
    for step in (4, 5):
        cut(folder / "checkpoints" / f"step_{step:06d}" / "state.ckpt")
    for _ in range(2):  # and it stays as it is
        assert server.run(knobs("kl"), folder, resume=True).code == STORAGE
        assert [f.name for f in sorted((folder / "checkpoints").iterdir())] == ["step_000004", "step_000005"]
    assert "every checkpoint of this run is damaged" in log(folder)
    assert (folder / "metrics.jsonl").stat().st_size > 0


# ---- lines that end in the middle ----

ROWS = [{"step": i, "text": "é\u2028" * i} for i in range(4)]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_wherever_a_journal_ends_it_goes_on_with_a_whole_line(tmp_path: Path, data: st.DataObject) -> None:
    """``kept`` bytes were there at the checkpoint, ``found`` bytes are there now."""
    lines = [jsonl.row_to_line(row).encode() for row in ROWS]
    whole, file = b"".join(lines), tmp_path / "metrics.jsonl"
    kept = sum(map(len, lines[: data.draw(st.integers(0, len(lines)))]))
    found = data.draw(st.integers(0, len(whole)))
    file.write_bytes(whole[:found])
    Record.cut_files(SimpleNamespace(dir=tmp_path), {"metrics.jsonl": kept})  # type: ignore[arg-type]
    assert file.read_bytes() in (whole[:kept], whole[: whole.rfind(b"\n", 0, found) + 1])
    assert file.stat().st_size <= min(kept, found)
    jsonl.append_rows(file, ROWS[:1])
    assert jsonl.read_rows(file)[-1] == ROWS[0]


def test_a_journal_that_has_lost_its_end_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "samples.jsonl").write_text('{"a": 1}\n{"a"')
    Record.cut_files(SimpleNamespace(dir=tmp_path), {"samples.jsonl": 20})  # type: ignore[arg-type]
    assert "samples.jsonl has lost 7 bytes" in capsys.readouterr().err
    assert (tmp_path / "samples.jsonl").read_text() == '{"a": 1}\n'


# ---- no room for a checkpoint ----


@pytest.mark.parametrize("full", [(1, 2), (2, 3), (6, 6)])
def test_a_full_disk_costs_checkpoints_and_nothing_else(
    server: ForkServer, whole_run: Whole, folder: Path, full: tuple[int, int]
) -> None:
    assert server.run(knobs("grpo"), folder, full=full).code == 0, log(folder)
    assert log(folder).count("warning") == log(folder).count(NO_ROOM) == 1
    assert not list(folder.rglob("*.tmp.*"))
    if full != (6, 6):  # else the last step is missing among the checkpoints
        assert_same_run(whole_run("grpo")[0], folder)


def test_no_room_is_an_error_of_the_disk() -> None:
    io = DirectCheckpointIO()
    io.save_checkpoint({"weights": torch.zeros(100_000)}, "/dev/full")
    assert isinstance(io.error, OSError)
    assert "No space left" in str(io.error)


def test_a_checkpoint_does_not_pass_through_the_temporary_folder(server: ForkServer, folder: Path) -> None:
    """Which may be on another disk, be full, or keep what a killed run has left there."""
    assert server.run(knobs("sft"), folder, Point("shutil:move")).code == 0, log(folder)


def test_a_disk_that_stays_full_ends_the_run(server: ForkServer, whole_run: Whole, folder: Path) -> None:
    assert server.run(knobs("grpo"), folder, full=(3, 9)).code == STORAGE
    assert "3 checkpoints in a row could not be written: [Errno 27] File too large" in log(folder)
    assert manifest(folder)["status"] == "failed"
    assert [f.name for f in sorted((folder / "checkpoints").iterdir())] == ["step_000001", "step_000002"]
    assert server.run(knobs("grpo"), folder, resume=True).code == 0, log(folder)
    assert_same_run(whole_run("grpo")[0], folder)


def test_a_run_can_be_stopped_while_the_disk_is_full(server: ForkServer, whole_run: Whole, folder: Path) -> None:
    point = Point("r1.stage.grpo:Grpo.training_step", call=10, number=signal.SIGTERM)
    assert server.run(knobs("grpo"), folder, point, full=(3, 4)).code == 143, log(folder)
    assert [f.name for f in sorted((folder / "checkpoints").iterdir())] == ["step_000001", "step_000002"]
    assert server.run(knobs("grpo"), folder, resume=True).code == 0, log(folder)
    assert_same_run(whole_run("grpo")[0], folder)
