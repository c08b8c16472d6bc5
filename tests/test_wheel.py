"""The wheel, installed beside a package that has a conf/ of its own: the config, a dry run, a run, a clear error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

from r1.core.paths import ROOT

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
TINY = [
    "trainer.max_steps=1",
    "trainer.accelerator=cpu",
    "stage.sequences_per_step=8",
    "stage.group_size=4",
    "stage.micro_batch_size=8",
    "data.num_train=8",
    "data.num_val=8",
    "val.num_prompts=2",
    "val.num_samples=2",
    "val.ks=[1,2]",
    "rollout.max_completion_length=8",
    "threads=1",
    "output_dir=out",
]


def command(*argv: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run without the checkout on the path."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    built = command(sys.executable, "-m", "pip", "wheel", *flags, "--wheel-dir", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("r1-*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel, this one's packages, and another package's conf/config.yaml."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))
    ZipFile(wheel).extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    (site / "conf").mkdir()
    (site / "conf" / "__init__.py").touch()
    (site / "conf" / "config.yaml").write_text("name: another package\n")
    return folder / "bin" / "python"


@pytest.fixture
def run(python: Path, tmp_path: Path) -> Run:
    """``run("-m", "r1.run", ...)`` in an empty folder."""
    return lambda *argv: command(python, *argv, cwd=tmp_path)


def test_wheel_holds_the_package_and_its_config_only(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"r1", f"{wheel.stem.rsplit('-', 3)[0]}.dist-info"}
    assert {"r1/py.typed", "r1/conf/config.yaml", "r1/assets/tiny/model.safetensors"} <= set(names)
    packed = {name.removeprefix("r1/") for name in names if name.startswith(("r1/conf/", "r1/sweeps/"))}
    files = [file for folder in ("conf", "sweeps") for file in (ROOT / folder).rglob("*") if file.is_file()]
    assert packed == {file.relative_to(ROOT).as_posix() for file in files}


def test_wheel_paths_are_those_of_the_installed_package(run: Run, python: Path) -> None:
    code = "import r1; from r1.core import paths; print(r1.__file__, paths.CONF, paths.EXAMPLE_CONFS, sep='\\n')"
    package, conf, examples = map(Path, run("-c", code).stdout.splitlines())
    assert package.is_relative_to(python.parents[1])
    assert conf == package.parent / "conf"
    assert str(examples) == "[]"


def test_wheel_shows_the_config(run: Run) -> None:
    done = run("-m", "r1.run", "--cfg", "job")
    assert (done.returncode, done.stderr) == (0, "")
    assert "group_size: 8" in done.stdout
    assert "another package" not in done.stdout


def test_wheel_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    done = run("-m", "r1.run", "dry_run=true", *TINY)
    assert done.returncode == 0, done.stderr
    assert "2 prompts x 4" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_wheel_trains_a_step(run: Run, tmp_path: Path) -> None:
    done = run("-m", "r1.run", *TINY)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert any("train/loss" in row for row in rows)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "finished"


def test_wheel_without_examples_rejects_their_experiments(run: Run) -> None:
    done = run("-m", "r1.run", "experiment=claims")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "claims" in done.stderr
    assert "r1_zero" in done.stderr  # one of those that exist
