"""Full, failing and read-only disks, and damaged files: one screen that names the file, never a traceback or a wait."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from r1 import compare, report, run, sweep
from r1.config.check.disk_space import space_needed
from r1.core import jsonl
from r1.core.errors import STORAGE, UserError
from r1.core.files import write_atomic
from r1.core.manifest import close_manifest, write_manifest
from r1.core.runs import read_run
from r1.core.storage import disk_fault, storage_errors
from r1.experiment.hydra_jobs import JobResult
from r1.experiment.sweep.runner import Runner
from r1.run import execute

pytestmark = pytest.mark.slow

Config = dict[str, Any]
RUN = ["stage=grpo", "stage.group_size=2", "trainer.max_steps=2", "checkpoint_every=1", "keep_best=true"]
NUMBERS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS, errno.EACCES]
WRITTEN = ["manifest.json", "config.yaml", "overrides.yaml", "metrics.jsonl", "samples.jsonl"]
WRITTEN += ["timing.jsonl", "model/config.json", "csv/metrics.csv", "code.diff", "tensorboard/events"]
QUICK = ("manifest.json", "config.yaml", "metrics.jsonl", "tensorboard/events")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_module: Callable[..., Config]) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    execute(small_module(*RUN) | {"output_dir": str(folder)}, [])
    return folder


@pytest.fixture(scope="module")
def small_module() -> Callable[..., Config]:
    from conftest import DENSE, SMALL
    from forkserver import composed

    small = [option for option in SMALL if not option.startswith("trainer.max_steps")]
    return lambda *overrides: dict(composed(*small, *DENSE, "threads=1", *overrides))


def test_finished_run_has_used_the_room_that_was_estimated(finished: Path, small_module: Callable[..., Config]) -> None:
    parts = {
        part: sum(file.stat().st_size for file in (finished / part).rglob("*")) for part in ("checkpoints", "model")
    }
    used = parts["checkpoints"] + 2 * parts["model"]  # best/ is a model, too
    assert used == pytest.approx(space_needed(small_module(*RUN, "+model.config.vocab_size=610")), rel=0.2)


class FullFile(io.FileIO):
    """A file whose every write fails."""

    number = errno.ENOSPC

    def write(self, data: Any) -> int:
        raise OSError(self.number, os.strerror(self.number))


def fill_disk_for(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let writes fail to the files whose path ends with ``name`` or is its temporary copy."""
    original = io.open

    def fail(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        path = os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else ""
        if name in path.partition(".tmp.")[0] and set(mode) & set("wax+"):
            if number in (errno.EROFS, errno.EACCES):
                raise OSError(number, os.strerror(number), path)
            raw = FullFile(path, mode.replace("b", "").replace("t", ""))
            raw.number = number
            return raw if "b" in mode else io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
        return original(file, mode, *args, **kwargs)

    monkeypatch.setattr(io, "open", fail)
    monkeypatch.setattr(builtins, "open", fail)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in WRITTEN]
)
def test_run_whose_file_cannot_be_written_is_one_storage_screen_and_goes_on(
    finished: Path, folder: Path, small_module: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind = name.partition("/")[0]
    logger = [f"logger={kind}"] if kind in ("csv", "tensorboard") else []
    config = small_module(*RUN, *logger) | {"output_dir": str(folder)}
    number = NUMBERS[WRITTEN.index(name) % len(NUMBERS)]
    monkeypatch.setattr("r1.core.provenance.working_tree_diff", lambda: "+x = 1\n")  # an empty file is never full
    with monkeypatch.context() as patch:
        fill_disk_for(patch, name, number)
        with pytest.raises(UserError) as caught, storage_errors():
            execute(config, [])
    assert caught.value.code == STORAGE
    assert os.strerror(number) in str(caught.value)
    assert name in str(caught.value) or kind == "tensorboard"  # its writer thread
    if (folder / "manifest.json").exists():
        assert json.loads((folder / "manifest.json").read_text())["status"] == "failed"
    assert not list(folder.glob("*.tmp.*"))
    execute(config | {"resume": "auto"}, [])
    assert (folder / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


DISTILL = ["stage=distill", "stage.num_questions=24", "stage.answers_per_question=2", "stage.micro_batch_size=2"]


@pytest.mark.parametrize("name", ["traces/traces.jsonl", pytest.param("traces/traces.json", marks=pytest.mark.long)])
def test_run_whose_traces_cannot_be_written_is_one_storage_screen_and_continues(
    folder: Path, small_module: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options = [option for option in RUN if "stage" not in option]
    config = small_module(*DISTILL, *options) | {"output_dir": str(folder)}
    with monkeypatch.context() as patch:
        fill_disk_for(patch, name, errno.EDQUOT)
        with pytest.raises(UserError, match=name) as caught, storage_errors():
            execute(config, [])
    assert caught.value.code == STORAGE
    assert json.loads((folder / "manifest.json").read_text())["status"] == "failed"
    execute(config | {"resume": "auto"}, [])
    assert len(jsonl.read_rows(folder / "traces" / "traces.jsonl")) > 0


@contextmanager
def small_files(max_bytes: int) -> Iterator[None]:
    """No file may become larger: the limit that libraries in C and Rust meet, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", ["model", "best"])
def test_model_above_the_size_limit_is_one_storage_screen_and_continues(
    finished: Path, folder: Path, small_module: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The weights are written by safetensors, in Rust."""
    from r1.stage import base
    from r1.stage.validation.validator import Validator

    def limited(*args: Any, **kwargs: Any) -> None:
        with small_files(50_000):
            original(*args, **kwargs)

    original, config = base.export, small_module(*RUN) | {"output_dir": str(folder)}
    with monkeypatch.context() as patch:
        patch.setattr(base, "export", limited)
        patch.setattr(Validator, "improved", lambda self, start: part == "best")
        with pytest.raises(UserError) as caught, storage_errors():
            execute(config, [])
    assert caught.value.code == STORAGE
    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert json.loads((folder / "manifest.json").read_text())["status"] == "failed"
    assert not (folder / "best").exists()
    execute(config | {"resume": "auto"}, [])
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


def test_answers_that_cannot_be_stored_are_one_storage_screen(tmp_path: Path) -> None:
    from r1.stage.distillation.answer_cache import AnswerCache

    row = {"key": "a", "text": "x" * 100}
    with AnswerCache(tmp_path / "answers.jsonl", "stage.cache", lambda: None) as cache:
        cache.add([row])
        with small_files(200), pytest.raises(UserError, match="the store cannot be written: File too large") as caught:
            cache.add([row] * 2)
        assert caught.value.code == STORAGE
    with AnswerCache(tmp_path / "answers.jsonl", "stage.cache", lambda: None) as cache:
        cache.add([row])
        assert list(cache.rows()) == [row, row], "the cut line is gone, the answer before it is there"


@pytest.mark.parametrize("name", ["report.html", "study.db", "sweep.yaml", "multirun.yaml"])
def test_command_whose_file_cannot_be_written_exits_with_74_and_then_succeeds(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "run")
    Path("report.html").write_text("old")
    content = {"name": "tried", "method": "grid", "metric": {"name": "val/pass@1", "goal": "maximize"}}
    content |= {"parameters": {"seed": {"values": [0]}}, "command": ["python", "-m", "r1.run", "${args_no_hyphens}"]}
    Path("tried.yaml").write_text(json.dumps(content))
    monkeypatch.setattr(Runner, "run", lambda self: None)
    monkeypatch.setattr("r1.experiment.hydra_jobs.run_and_report_errors", lambda *args: JobResult(0))
    commands: dict[str, tuple[Any, list[str]]] = {
        "report.html": (report, ["run", "--output", "report.html"]),
        "multirun.yaml": (run, ["-m", "stage=eval", "model=tiny_xs", "seed=0,1"]),
    }
    module, argv = commands.get(name, (sweep, ["tried.yaml"]))
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    with monkeypatch.context() as patch:
        fill_disk_for(patch, name, errno.ENOSPC)
        limit = small_files(1_000) if name == "study.db" else nullcontext()
        with limit, pytest.raises(SystemExit) as ended:
            module.main()
    screen = capfd.readouterr().err
    assert ended.value.code == STORAGE
    assert screen.count("r1: ") == 1
    assert name in screen or name == "multirun.yaml"  # Hydra's
    assert "Traceback" not in screen
    assert Path("report.html").read_text() == "old"
    assert not list(tmp_path.rglob("*.tmp.*"))
    module.main()


@pytest.mark.parametrize("number", NUMBERS)
def test_write_atomic_that_fails_keeps_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    file = tmp_path / "file"
    write_atomic(file, "old")

    def fail(descriptor: int) -> None:
        raise OSError(number, "failed")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="file'"):
        write_atomic(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "old"


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted", "halted"])
def test_close_manifest_without_room_changes_the_status_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    write_manifest(tmp_path, {"schema": 1, "status": "running", "error": None, "wall_s": 1.0})
    size = (tmp_path / "manifest.json").stat().st_size
    error = None if status == "finished" else "OSError: it is full"

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("r1.core.manifest.write_atomic", full)
    if error:
        close_manifest(tmp_path, {"status": status, "error": error})
    else:
        with pytest.raises(OSError, match="full"):
            close_manifest(tmp_path, {"status": status, "error": error})
    expected = {"schema": 1, "status": status if error else "failed", "error": None, "wall_s": 1.0}
    assert json.loads((tmp_path / "manifest.json").read_text()) == expected
    assert (tmp_path / "manifest.json").stat().st_size == size


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("(sqlite3.OperationalError) database or disk is full", errno.ENOSPC),
        ("disk I/O error", errno.EIO),
        ("no number in here", None),
    ],
)
def test_disk_fault_of_other_libraries(text: str, number: int | None) -> None:
    fault = disk_fault(Exception(text))
    assert (fault.errno if fault else None) == number


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def folder_in_its_place(file: Path) -> None:
    file.unlink()
    file.mkdir()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": cut,
    "zeros": lambda file: file.write_bytes(b"\0\0" + file.read_bytes()[2:]),
    "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe" + file.read_bytes()),
    "a list": lambda file: file.write_bytes(b"[1, 2]\n"),
    "nested": lambda file: file.write_bytes(b"[" * 100_000 + b"\n"),
    "missing": Path.unlink,
    "a FIFO": fifo,
    "a folder": folder_in_its_place,
}


RESUMED = ("cut", "a list", "a FIFO")  # a resumed run takes seconds


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["manifest.json", "config.yaml", "metrics.jsonl", "samples.jsonl"])
def test_damaged_record_is_one_screen_or_repaired_for_every_verb(
    finished: Path, folder: Path, small_module: Callable[..., Config], name: str, damage: str
) -> None:
    shutil.copytree(finished, folder)
    DAMAGE[damage](folder / name)

    config = small_module(*RUN) | {"output_dir": str(folder), "resume": "auto"}
    screens = []
    for verb in (
        lambda: compare.sections(read_run(str(folder)), read_run(str(finished))),
        lambda: compare.metric_rows(read_run(str(folder)), read_run(str(finished))),
        lambda: report.report([str(folder)], folder.parent / "page.html"),
        lambda: jsonl.read_rows(folder / name) if name == "samples.jsonl" and (folder / name).exists() else None,
        *([lambda: execute(config, [])] if damage in RESUMED else []),
    ):
        try:
            verb()
        except UserError as error:
            screens.append(str(error))
    assert all(name in screen or "no manifest.json" in screen for screen in screens), screens


def test_stray_files_among_checkpoints_are_passed_over(
    finished: Path, folder: Path, small_module: Callable[..., Config]
) -> None:
    shutil.copytree(finished, folder)
    (folder / "checkpoints" / "step_999999").mkdir()
    os.mkfifo(folder / "checkpoints" / "step_999998")
    (folder / "x.tmp.1").write_text("the user's")
    execute(small_module(*RUN) | {"output_dir": str(folder), "resume": "auto"}, [])
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_000001", "step_000002"]
