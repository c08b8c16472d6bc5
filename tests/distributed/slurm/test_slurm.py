"""A real Slurm cluster of two nodes on one machine: runs on both, sweeps, and machines that are taken away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import SMALL
from forkserver import knobs
from samerun import DECIDED, GREW, WEIGHTS, manifest

from r1.core.paths import CONF

if TYPE_CHECKING:
    from fakewandb import Server

SETUP, SBATCH = Path(__file__).parent / "setup.sh", CONF.parent / "docs" / "slurm.sbatch"
KNOBS = [*SMALL, "stage=sft", "stage.micro_batch_size=4", "threads=1", "checkpoint_every=1000"]
LONG = {"trainer.max_steps": "trainer.max_steps=300", "val.every": "val.every=100"}
LONGEST_S = 500.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not shutil.which("slurmctld") or os.getuid() != 0,
        reason="needs root and Slurm: tests/slurm/setup.sh install",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    started = subprocess.run([SETUP, "start"], capture_output=True, text=True, check=False)
    if started.returncode:
        pytest.skip(f"Slurm does not start here: {started.stderr}")
    yield
    subprocess.run([SETUP, "stop"], check=True)


def environ() -> dict[str, str]:
    path = os.pathsep.join([str(CONF.parent), *sys.path])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "r1.run", *overrides, *(LONG.get(o.partition("=")[0], o) for o in KNOBS)]


def slurm(*argv: str) -> str:
    """The output of a Slurm command."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def rows(file: Path) -> int:
    return len(file.read_bytes().splitlines()) if file.is_file() else 0


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# ---- one run on two nodes ----

RUN = ["trainer.max_steps=600", "val.every=200", "checkpoint_every=1000", "strategy=ddp"]
NODES = ["--nodes=2", "--ntasks-per-node=1"]


def on_two_nodes(*overrides: str) -> list[str]:
    return knobs("sft", *RUN, *overrides)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two nodes without interruption, by srun alone."""
    folder = tmp_path_factory.mktemp("slurm") / "reference"
    argv = on_two_nodes("trainer.devices=1", "trainer.num_nodes=2", f"output_dir={folder}")
    done = subprocess.run(
        ["srun", *NODES, sys.executable, "-m", "r1.run", *argv], env=environ(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert done.stderr.count("validation at step 0") == 1  # printed once
    return folder


@pytest.mark.parametrize("how", ["notice", "preemption", "cancelled"])
def test_preempted_job_is_requeued_and_resumes(
    reference: Path, tmp_path: Path, wandb_server: Server, wandb_env: dict[str, str], how: str
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    options = ["--parsable", *NODES, f"--output={log}", f"--chdir={tmp_path}"]
    argv = ["sbatch", *options, str(SBATCH), *on_two_nodes("logger=wandb", f"output_dir={folder}")]
    job = subprocess.run(argv, env=environ() | wandb_env, capture_output=True, text=True, check=True).stdout.strip()
    wait_for(lambda: rows(folder / "metrics.jsonl") > 20)
    take_away(how, job)
    wait_for(lambda: manifest(folder)["status"] == "interrupted")
    assert manifest(folder)["metrics"]["final"] == {}
    if how == "cancelled":  # by its user, who wants it to end
        wait_for(lambda: "JobState=CANCELLED" in slurm("scontrol", "show", "job", job))
        return
    wait_for(lambda: "Restarts=1" in slurm("scontrol", "show", "job", job))
    wait_for(lambda: started_again(job))
    wait_for(lambda: manifest(folder)["status"] == "finished")
    wait_for(lambda: "JobState=COMPLETED" in slurm("scontrol", "show", "job", job))
    assert "and Slurm will start it again" in log.read_text()
    for name in (*GREW, *WEIGHTS):
        if (reference / name).exists():
            assert (folder / name).read_bytes() == (reference / name).read_bytes(), name
    assert {key: manifest(folder)[key] for key in DECIDED} == {key: manifest(reference)[key] for key in DECIDED}
    assert manifest(folder)["devices"] == manifest(reference)["devices"]
    from wandbruns import check, only

    wandb_server.wait_until_runs_ended()
    check(wandb_server, only(wandb_server), folder)  # one run, each row once


def take_away(how: str, job: str) -> None:
    if how == "notice":
        slurm("scancel", "--signal=USR2", job)
    elif how == "preemption":
        slurm("sbatch", "--partition=urgent", *NODES, "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    else:
        slurm("scancel", job)


def started_again(job: str) -> bool:
    """Slurm waits two minutes before it starts a job again; its administrator need not, once the nodes are clean."""
    time.sleep(5)
    subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], capture_output=True, check=False)
    return "JobState=RUNNING" in slurm("scontrol", "show", "job", job)


# ---- a sweep ----


def test_preempted_sweep_run_resumes_in_its_record(tmp_path: Path) -> None:
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.sweep.dir=sweep"]
    with subprocess.Popen(
        command("-m", "seed=1,2", *launcher), cwd=tmp_path, env=environ(), stdout=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: [f for f in tmp_path.glob("outputs/sft/*/metrics.jsonl") if rows(f) > 20])
        first = next(f for f in tmp_path.glob("outputs/sft/*/metrics.jsonl") if rows(f) > 20).parent
        seed = json.loads((first / "manifest.json").read_text())["seed"]
        (log,) = tmp_path.glob(f"sweep/.submitit/*_{seed - 1}/*_log.err")
        slurm("scancel", "--signal=USR2", log.parent.name)
        wait_for(lambda: list(tmp_path.glob("sweep/*.stopped")))
        steps = [file.name for file in first.glob("checkpoints/*")]
        wait_for(lambda: started_again(log.parent.name))
        out, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0
    folders = [Path(line) for line in out.splitlines()]
    assert len(set(folders)) == len(list(tmp_path.glob("outputs/sft/*"))) == 2
    assert folders[seed - 1] == first
    assert steps != []
    assert not list(tmp_path.glob("sweep/*.stopped"))
    again = subprocess.run(
        command(f"seed={seed}", "output_dir=reference"), cwd=tmp_path, env=environ(), capture_output=True, check=False
    )
    assert again.returncode == 0
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (first / name).read_bytes() == (tmp_path / "reference" / name).read_bytes()
