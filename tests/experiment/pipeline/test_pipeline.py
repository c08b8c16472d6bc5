"""A pipeline of real runs: what is skipped the second time, and that a kill in the middle of a step changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forkserver import ForkServer

from r1.core.errors import Interrupted, UserError
from r1.core.paths import CONF
from r1.distributed.process import last_error_line
from r1.experiment.launch import launch
from r1.experiment.pipeline import scheduler as execute
from r1.experiment.pipeline.node import PipelineNode

pytestmark = pytest.mark.slow

Write = Callable[..., list[str]]
LONGEST_S = 120.0


class Forked:
    """Stands in for a step's process: the same run, forked in a moment from a process that has imported everything."""

    wall_s = 0.5

    def __init__(self, server: ForkServer, node: PipelineNode) -> None:
        self.node = node
        node.folder.mkdir(parents=True, exist_ok=True)
        here = [text.replace("=outputs/", f"={Path.cwd()}/outputs/") for text in node.overrides]
        self.exit_code = server.run(here, node.folder.absolute(), resume=True).code

    def poll(self) -> int:
        return self.exit_code

    def last_error_line(self) -> str:
        return last_error_line(self.node.folder.with_name(f"{self.node.folder.name}.log").read_text())


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def statuses(folder: Path) -> dict[str, str]:
    return {step["name"]: step["status"] for step in manifest(folder)["steps"]}


def record(folder: Path, step: str) -> Path:
    return Path(next(one["path"] for one in manifest(folder)["steps"] if one["name"] == step))


@pytest.fixture
def forked(server: ForkServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Steps are forked; undone by ``forked.undo()``."""
    with pytest.MonkeyPatch.context() as patch:
        fork_steps(patch, server)
        yield patch


def fork_steps(patch: pytest.MonkeyPatch, server: ForkServer) -> None:
    patch.setattr(execute, "start", lambda node, flags, is_result: Forked(server, node))


def go(argv: list[str], capsys: pytest.CaptureFixture[str]) -> Path:
    """Run a pipeline in this process, its steps in theirs; its record."""
    assert launch(argv, lambda *_: pytest.fail("this is no run")) == 0
    return Path(capsys.readouterr().out.strip())


def test_second_run_skips_finished_steps(write: Write, forked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*write(), "trainer.max_steps=2"]
    first = go(argv, capsys)
    assert first.parent.name == "mine"
    assert statuses(first) == dict.fromkeys(("answers", "sft", "test"), "finished")
    for step in manifest(first)["steps"]:
        assert manifest(Path(step["path"]))["fingerprint"] == step["fingerprint"], "planned as it came out"
    assert manifest(first)["metrics"]["final"] == manifest(record(first, "test"))["metrics"]["final"]
    assert "val/pass@1" in manifest(first)["metrics"]["final"]
    assert [parent["path"] for parent in manifest(record(first, "test"))["parents"]] == [str(record(first, "sft"))]
    second = go(argv, capsys)
    assert second != first
    assert set(statuses(second).values()) == {"cached"}
    third = go([*argv, "steps.test.val.num_samples=3", "result=sft"], capsys)
    assert statuses(third) == {"answers": "cached", "sft": "cached", "test": "finished"}
    assert manifest(third)["metrics"]["final"] == manifest(record(third, "sft"))["metrics"]["final"]

    files = [record(first, "answers") / "traces" / "traces.jsonl", record(first, "sft") / "model" / "model.safetensors"]
    contents = [file.read_bytes() for file in files]
    for file, damaged in zip(files, (contents[0][: len(contents[0]) // 2], flip_last_bit(contents[1])), strict=True):
        file.write_bytes(damaged)
    assert launch([*argv, "dry_run=true"], lambda *_: None) == 0
    planned = capsys.readouterr().err
    assert "traces/traces.jsonl is damaged" in planned
    assert "model/model.safetensors is damaged" in planned
    assert statuses(go(argv, capsys)) == {"answers": "finished", "sft": "finished", "test": "cached"}
    assert [file.read_bytes() for file in files] == contents, "made again"


@pytest.mark.long
def test_step_whose_best_model_is_damaged_is_made_again(
    write: Write, forked: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*write(), "trainer.max_steps=4", "val.every=2", "result=sft"]
    first = go(argv, capsys)
    best = record(first, "sft") / "best" / "model.safetensors"
    content, metrics = best.read_bytes(), (record(first, "sft") / "metrics.jsonl").read_bytes()
    best.write_bytes(flip_last_bit(content))
    assert statuses(go(argv, capsys))["sft"] == "finished"
    assert (best.read_bytes(), (record(first, "sft") / "metrics.jsonl").read_bytes()) == (content, metrics)


def flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def wait_for(steps: Path, name: str) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not list(steps.glob(f"*/checkpoints/{name}")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def step_processes(base: Path) -> list[int]:
    """Processes with a folder below ``base`` on their command line."""
    pids = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"output_dir={base}/steps".encode() in file.read_bytes():
                pids.append(int(file.parent.name))
        except OSError:
            continue
    return pids


def test_killed_and_stopped_pipeline_resumes_its_step(
    write: Write, forked: Any, server: ForkServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The records end as those of a pipeline that nobody touched."""
    argv = [*write(), "~steps.test"]
    uninterrupted = go([*argv, f"output_dir={tmp_path}/whole"], capsys)
    forked.undo()
    base = tmp_path / "cut"
    shutil.copytree(
        uninterrupted / "steps" / "answers", base / "steps" / "answers"
    )  # wherever it lies, it is the same run
    argv.append(f"output_dir={base}")
    env = os.environ | {"PYTHONPATH": str(CONF.parent), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-m", "r1.run", *argv], env=env, stderr=subprocess.PIPE) as process:
        wait_for(base / "steps" / "sft", "step_000003")
        process.kill()
    deadline = time.monotonic() + 10
    while step_processes(base):
        assert time.monotonic() < deadline, "the step outlives its pipeline"
        time.sleep(0.02)
    assert (manifest(base)["status"], statuses(base)) == ("running", {"answers": "cached", "sft": "running"})
    assert manifest(record(base, "sft"))["status"] == "running"

    def stop() -> None:
        wait_for(base / "steps" / "sft", "step_000012")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted) as stopped:
        go(argv, capsys)
    assert stopped.value.number == signal.SIGTERM
    assert (manifest(base)["status"], statuses(base)["sft"]) == ("interrupted", "interrupted")
    assert manifest(record(base, "sft"))["status"] == "interrupted"
    assert "sft      resumes" in capsys.readouterr().err

    fork_steps(forked, server)
    assert go(argv, capsys) == base
    assert statuses(base) == {"answers": "cached", "sft": "finished"}
    for one in ("model/model.safetensors", "traces/traces.jsonl"):
        step = "sft" if one.startswith("model") else "answers"
        assert (record(base, step) / one).read_bytes() == (record(uninterrupted, step) / one).read_bytes()
    rows = [(record(folder, "sft") / "metrics.jsonl").read_text().splitlines() for folder in (base, uninterrupted)]
    assert [row for row in rows[0] if "train/loss" in row] == [row for row in rows[1] if "train/loss" in row]
    assert manifest(record(base, "sft"))["fingerprint"] == manifest(record(uninterrupted, "sft"))["fingerprint"]


def test_failed_step_is_recorded_and_fails_the_pipeline(
    write: Write, forked: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found out only by the step itself: too few answers are kept."""
    with pytest.raises(UserError) as failed:
        go([*write(), "output_dir=out", "steps.answers.teacher.error_rate=1.0"], capsys)
    assert failed.value.code == 3
    assert statuses(Path("out")) == {"answers": "failed", "sft": "blocked", "test": "blocked"}
    assert "teacher answers were accepted, fewer than one optimizer step needs" in str(failed.value)
    assert "could not run" in str(failed.value)
