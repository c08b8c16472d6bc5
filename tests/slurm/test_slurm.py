"""A sweep on a real Slurm cluster of one machine: its runs, and one that the cluster takes the machine away from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import SMALL

SETUP = Path(__file__).parent / "setup.sh"
KNOBS = [*SMALL, "stage=sft", "stage.micro_batch_size=4", "threads=1", "checkpoint_every=1000"]
LONG = {"trainer.max_steps": "trainer.max_steps=300", "val.every": "val.every=100"}
LONGEST_S = 500.0  # Slurm waits two minutes before it starts a job again

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not shutil.which("slurmctld") or os.getuid() != 0,
        reason="needs root and Slurm: tests/slurm/setup.sh install",
    ),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    started = subprocess.run([SETUP, "start"], capture_output=True, text=True, check=False)
    if started.returncode:
        pytest.skip(f"Slurm does not start here: {started.stderr}")
    yield
    subprocess.run([SETUP, "stop"], check=True)


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "r1.run", *overrides, *(LONG.get(o.partition("=")[0], o) for o in KNOBS)]


@pytest.mark.usefixtures("cluster")
def test_a_run_that_loses_its_machine_goes_on_in_its_record(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environ = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.sweep.dir=sweep"]
    with subprocess.Popen(
        command("-m", "seed=1,2", *launcher), cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        first = wait_for(lambda: [f for f in tmp_path.glob("outputs/sft/*/metrics.jsonl") if rows(f) > 20])[0].parent
        seed = json.loads((first / "manifest.json").read_text())["seed"]
        (log,) = tmp_path.glob(f"sweep/.submitit/*_{seed - 1}/*_log.err")
        subprocess.run(["scancel", "--signal=USR2", log.parent.name], check=True)
        wait_for(lambda: list(tmp_path.glob("sweep/*.stopped")))
        steps = [file.name for file in first.glob("checkpoints/*")]
        out, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0
    folders = [Path(line) for line in out.splitlines()]
    assert len(set(folders)) == len(list(tmp_path.glob("outputs/sft/*"))) == 2
    assert folders[seed - 1] == first
    assert steps != []
    assert not list(tmp_path.glob("sweep/*.stopped"))
    whole = subprocess.run(
        command(f"seed={seed}", "output_dir=whole"), cwd=tmp_path, env=environ, capture_output=True, check=False
    )
    assert whole.returncode == 0
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (first / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def rows(file: Path) -> int:
    return len(file.read_bytes().splitlines())


def wait_for(found: Callable[[], list[Path]]) -> list[Path]:
    deadline = time.monotonic() + LONGEST_S
    while not (files := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return files
