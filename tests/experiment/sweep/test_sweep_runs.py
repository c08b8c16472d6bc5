"""Sweeps over real runs: a pipeline whose common steps are made once, and a killed worker's run, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import swept
import yaml
from forkserver import knobs

from r1.core.paths import CONF

pytestmark = pytest.mark.long
ROOT = CONF.parent
LONGEST_S = 900


def start(folder: Path, *argv: str, **keys: Any) -> subprocess.Popen[str]:
    swept.write(folder, **keys)
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "r1.sweep", "tried.yaml", *argv]
    return subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def manifest(folder: Path, number: int) -> dict[str, Any]:
    file = folder / "outputs" / "sweeps" / "tried" / "runs" / f"{number:04}" / "manifest.json"
    return dict(json.loads(file.read_text()))


def test_sweep_over_pipelines_runs_common_steps_once(write: Callable[..., list[str]], tmp_path: Path) -> None:
    command = ["python", "-m", "r1.run", *write(), "${args_no_hyphens}"]
    parameters = {"steps.test.val.num_samples": {"values": [2, 3]}, "trainer.max_steps": {"value": 2}}
    sweep = start(tmp_path, "--workers", "2", command=command, parameters=parameters)
    _, output = sweep.communicate(timeout=LONGEST_S)
    assert sweep.returncode == 0, output
    finished_steps = [file.parent.parent.name for file in tmp_path.glob("outputs/sweeps/tried/steps/*/*/manifest.json")]
    assert sorted(finished_steps) == ["answers", "sft", "test", "test"]
    for number, samples in enumerate((2, 3)):
        record = manifest(tmp_path, number)
        assert record["status"] == "finished"
        figure = record["metrics"]["final"]["val/pass@1"]
        assert figure["n"] == 2 * samples
    assert "best: val/pass@1" in output
    assert "again: python -m r1.run --config-dir conf experiment=mine steps.test.val.num_samples=" in output


def test_run_of_a_killed_worker_resumes_bit_for_bit(tmp_path: Path) -> None:
    command = ["python", "-m", "r1.run", *knobs("sft", "trainer.max_steps=12"), "${args_no_hyphens}"]
    runs = tmp_path / "outputs" / "sweeps" / "tried" / "runs"
    parameters = {"seed": {"values": [0]}}
    first = start(tmp_path, command=command, parameters=parameters)
    swept.wait_until(lambda: list((runs / "0000" / "checkpoints").glob("*")), LONGEST_S)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    status = manifest(tmp_path, 0)["status"]
    second = start(tmp_path, command=command, parameters=parameters)
    _, output = second.communicate(timeout=LONGEST_S)
    assert second.returncode == 0, output
    assert status == "finished" or "0000  resumes" in output
    other = start(tmp_path, "--name", "other", command=command, parameters=parameters)
    _, output = other.communicate(timeout=LONGEST_S)
    assert other.returncode == 0, output
    uninterrupted = tmp_path / "outputs" / "sweeps" / "other" / "runs" / "0000" / "metrics.jsonl"
    assert (runs / "0000" / "metrics.jsonl").read_text() == uninterrupted.read_text()
    assert yaml.safe_load((runs.parent / "sweep.yaml").read_text())["name"] == "tried"
