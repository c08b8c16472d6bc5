"""Sweeps through Hydra's launchers: what comes back of runs in other processes, and how they are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from wandbfile import wandb_runs

from r1.core.errors import DATA, Interrupted, UserError
from r1.experiment.hydra_jobs import PrefixedStream
from r1.experiment.launch import launch
from r1.run import execute

pytestmark = pytest.mark.slow

SFT = [*SMALL, "stage=sft", "stage.micro_batch_size=4", "logger=wandb"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SUBMITIT = ["hydra/launcher=submitit_local"]
RAY = ["hydra/launcher=ray"]
LONGEST_S = 300.0
Sweep = Callable[..., int]

needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install -e '.[ray]'")


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """``sweep(job, "seed=1,2", ...)``: a sweep in an empty folder; its exit code."""

    from joblib.externals.loky import get_reusable_executor

    def started(job: Callable[[dict[str, Any], list[str]], Any], *overrides: str) -> int:
        get_reusable_executor().shutdown(kill_workers=True)  # those of an earlier test are in its folder
        argv = ["-m", "model=scratch", *overrides]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["r1.run", *argv])
        return launch(argv, job)

    return started


def lines(tmp_path: Path) -> str:
    """What runs in other processes wrote where they do not share the screen."""
    return "".join(file.read_text() for file in sorted(tmp_path.rglob("*_log.err")))


@pytest.mark.parametrize("launcher", [JOBLIB, SUBMITIT], ids=["joblib", "submitit"])
def test_worker_results_and_errors_are_printed_by_the_sweep(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], tmp_path: Path, launcher: list[str]
) -> None:
    def job(cfg: dict[str, Any], overrides: list[str]) -> Path:
        if cfg["seed"] == 1:
            raise UserError("the file has gone", key="data.path", hint="bring it back", code=DATA)
        if cfg["seed"] == 2:
            raise RuntimeError("a bug of sk-hunter2hunter2hunter2")
        Path(f"{cfg['seed']}.json").write_text(json.dumps([os.getpid(), sys.argv, overrides]))
        return Path(cfg["output_dir"])

    assert sweep(job, "seed=0,1,2", "output_dir='run/${hydra:job.num}'", *launcher) == DATA
    out, err = capfd.readouterr()
    assert out == "run/0\n"
    lines_of_runs = [line for line in err.splitlines() if line.startswith("r1  [")]
    assert lines_of_runs == [
        "r1  [0] seed=0: finished",
        "r1  [1] seed=1: the file has gone key data.path hint bring it back",
        "r1  [2] seed=2: RuntimeError: a bug of <redacted>",
    ]
    output = err + lines(tmp_path)
    assert output.count("[1] r1: the file has gone\n[1]   key      data.path\n") == 1
    assert output.count("[2] Traceback") == 1
    assert "hunter2" not in output
    pid, argv, overrides = json.loads((tmp_path / "0.json").read_text())
    assert pid != os.getpid()
    assert argv == sys.argv
    assert "seed=0" in overrides
    (multirun,) = tmp_path.rglob("multirun.yaml")
    assert multirun.parent.parent == tmp_path / "outputs" / "multirun"


@pytest.mark.parametrize(
    "launcher", [pytest.param(JOBLIB, id="joblib"), pytest.param(SUBMITIT, id="submitit", marks=pytest.mark.long)]
)
def test_signal_is_forwarded_once_and_ends_the_sweep(sweep: Sweep, tmp_path: Path, launcher: list[str]) -> None:
    def job(cfg: dict[str, Any], overrides: list[str]) -> None:
        began, seen = Path(f"began_{cfg['seed']}"), []
        signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
        began.touch()
        while not seen:
            time.sleep(0.05)
        time.sleep(0.5)  # saves
        began.write_text(str(seen))
        raise Interrupted(seen[0])

    def stop() -> None:
        while len(list(tmp_path.glob("began_*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted) as stopped:
        sweep(job, "seed=0,1,2" if launcher is JOBLIB else "seed=0,1", *launcher)
    assert stopped.value.code == 143
    assert [file.read_text() for file in sorted(tmp_path.glob("began_*"))] == ["[15]", "[15]"]  # the third never began
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_killed_worker_raises_user_error(sweep: Sweep) -> None:
    with pytest.raises(UserError, match="the launcher failed") as error:
        sweep(lambda cfg, overrides: os.kill(os.getpid(), signal.SIGKILL), "seed=0,1", *JOBLIB)
    assert error.value.code == 1
    assert "resume=auto" in str(error.value)


@pytest.mark.skipif(bool(find_spec("ray")), reason="Ray is installed")
def test_missing_launcher_package_raises_with_install_hint(sweep: Sweep) -> None:
    with pytest.raises(UserError, match=r"pip install -e '.\[ray\]'"):
        sweep(execute, "seed=1,2", *RAY)


def test_prefixed_stream_writes_complete_lines() -> None:
    class Screen(list[str]):
        def write(self, text: str) -> None:
            self.append(text)

        def flush(self) -> None: ...

    screen = Screen()
    stream = PrefixedStream(screen, "[7] ")  # type: ignore[arg-type]
    for text in ("a", "b\nc", "\n\nd"):
        stream.write(text)
    assert screen == ["[7] ab\n", "[7] c\n[7] \n"]
    assert stream.rest == "d"


# ---- real runs ----


def check_records(folders: list[Path], command: str) -> None:
    """Each run has a complete record, and a W&B run that finished."""
    assert len({folder.resolve() for folder in folders}) == len(folders) == 2
    for seed, folder in enumerate(folders, 1):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert (manifest["status"], manifest["seed"]) == ("finished", seed)
        assert manifest["command"].startswith(command)
        (logged,) = wandb_runs(folder)
        assert (logged["exit_code"], logged["config"]["seed"]) == (0, seed)
        assert logged["history"]


def test_concurrent_runs_have_separate_records_and_wandb_runs(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert sweep(execute, "seed=1,2", *JOBLIB, *SFT[1:]) == 0
    out, err = capfd.readouterr()
    check_records([Path(line) for line in out.splitlines()], "python -m r1.run -m model=scratch seed=1,2")
    assert err.count("[0] validation at step 6") == err.count("[1] validation at step 6") == 1


def command(*overrides: str) -> list[str]:
    """Of an option that is there twice, the last counts."""
    options = {option.partition("=")[0]: option for option in (*SFT, "checkpoint_every=1", *overrides)}
    return [sys.executable, "-m", "r1.run", *["-m"] * ("seed=1,2" in overrides), *options.values()]


def environ() -> dict[str, str]:
    path = os.pathsep.join(sys.path)
    return os.environ | {"PYTHONPATH": path, "WANDB_MODE": "offline"}


@pytest.mark.long
@pytest.mark.parametrize("launcher", [JOBLIB, SUBMITIT, pytest.param(RAY, marks=needs_ray)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_stopped_sweep_resumes(tmp_path: Path, launcher: list[str], number: int) -> None:
    """SIGINT as a terminal sends it, to every process; SIGTERM and SIGKILL to the one that was started."""
    argv = command(
        "seed=1,2", *launcher, "output_dir='run/${hydra:job.num}'", "resume=auto", "trainer.max_steps=100000"
    )
    folders = [tmp_path / "run" / "0", tmp_path / "run" / "1"]
    with subprocess.Popen(
        argv, cwd=tmp_path, env=environ(), text=True, start_new_session=True, stderr=subprocess.PIPE
    ) as process:
        wait_for(lambda: all(list(folder.glob("checkpoints/*")) for folder in folders))
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        code = process.wait(60)
        wait_for(lambda: [status(folder) for folder in folders] == ["interrupted"] * 2, 30)
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: not [line for line in running(tmp_path) if not line.startswith("ray::")], 30)  # Ray's own
    argv = command("seed=1", "output_dir=run/0", "resume=auto")
    done = subprocess.run(argv, cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False)
    assert "trainer.max_steps: 100000 -> 6" in done.stderr  # it resumed the earlier run


@pytest.mark.long
@pytest.mark.parametrize("launcher", [SUBMITIT, pytest.param(RAY, marks=needs_ray)])
def test_repeated_sweep_command_prints_the_same_folders(tmp_path: Path, launcher: list[str]) -> None:
    argv = command("seed=1,2", *launcher, "output_dir='run/${hydra:job.num}'", "resume=auto")
    for _ in range(2):  # the second time there is nothing left to do, and that is no error
        done = subprocess.run(argv, cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path}/run/0\n{tmp_path}/run/1\n"


def wait_for(reached: Callable[[], bool], seconds: float = LONGEST_S) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def status(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["status"])


def running(folder: Path) -> list[str]:
    """Command lines of the processes whose working directory is ``folder`` (Linux)."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder:
                commands.append((process / "cmdline").read_text())
        except OSError:
            continue
    return commands
