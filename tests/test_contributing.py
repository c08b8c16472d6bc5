"""The six exercises of CONTRIBUTING.md, pasted into a copy of the repository: they run, and its tests accept them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from r1.core.paths import ROOT

pytestmark = pytest.mark.slow

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
EXERCISES = TEXT[TEXT.index("## Six exercises") : TEXT.index("## Other options")]
NEW_FILE = re.compile(r"^`([\w/]+\.(?:py|yaml))`\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSERTION = re.compile(
    r"^In `([\w/]+\.py)`, (above|below) `([^`\n]*)`[^\n]*:\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
COMMAND = re.compile(r"^python -m r1\.run (.*)$", re.MULTILINE)
TINY = [
    "trainer.max_steps=1",
    "trainer.accelerator=cpu",
    "data.num_train=16",
    "data.num_val=8",
    "val.num_prompts=2",
    "val.num_samples=2",
    "val.ks=[1,2]",
    "rollout.max_completion_length=8",
    "threads=1",
]
GRPO = ["stage.group_size=4", "stage.sequences_per_step=8", "stage.micro_batch_size=8"]
RUN_ALL = """
import json, sys
from r1.experiment.launch import launch
from r1.run import execute
for argv in json.load(sys.stdin):
    assert launch(argv, execute) == 0, argv
"""


def commands() -> dict[str, list[str]]:
    """Folder of a run -> its command line in CONTRIBUTING.md, with tiny sizes where it does not name its own."""
    lines = {}
    for argv in map(shlex.split, COMMAND.findall(EXERCISES)):
        sizes = [*TINY, *([] if "stage=eval" in argv else GRPO)]
        keys = {override.partition("=")[0] for override in argv}
        drop = keys | ({"data.num_train"} if "data=doubles" in argv else set())
        folder = re.sub(r"\W+", "_", argv[0])
        lines[folder] = [*argv, *(o for o in sizes if o.partition("=")[0] not in drop), f"output_dir={folder}"]
    return lines


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with everything that the exercises write."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("r1", "conf", "sweeps", "tests", "examples"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for path, text in NEW_FILE.findall(EXERCISES):
        assert not (root / path).exists()
        (root / path).write_text(text)
    for path, side, anchor, text in INSERTION.findall(EXERCISES):
        before, line, after = (root / path).read_text().partition(f"{anchor}\n")
        assert line
        (root / path).write_text(before + (line + text if side == "below" else text + line) + after)
    return root


def run(copy: Path, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(copy)}
    return subprocess.run([sys.executable, *argv], cwd=copy, env=env, input=stdin, capture_output=True, text=True)


@pytest.fixture(scope="module")
def runs(copy: Path) -> Path:
    """The folder with the record of every command."""
    done = run(copy, "-c", RUN_ALL, stdin=json.dumps(list(commands().values())))
    assert done.returncode == 0, done.stdout + done.stderr
    return copy


def names(folder: Path) -> set[str]:
    """Of the metrics that a run recorded."""
    return {name for line in (folder / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}


def test_contributing_has_six_exercises() -> None:
    assert len(NEW_FILE.findall(EXERCISES)) == 10
    assert len(INSERTION.findall(EXERCISES)) == 2
    assert len(commands()) == 6


@pytest.mark.parametrize("folder", commands())
def test_exercise_runs_as_pasted(runs: Path, folder: str) -> None:
    manifest = json.loads((runs / folder / "manifest.json").read_text())
    assert (manifest["status"], manifest.get("error")) == ("finished", None)


def test_exercises_leave_what_they_promise(runs: Path) -> None:
    term, loss, verifier, data, metric, logger = (runs / folder for folder in commands())
    assert {"reward/brevity", "reward/brevity_weighted"} <= names(term)
    assert "stage.loss.reinforce.Reinforce" in (loss / "config.yaml").read_text()
    assert "digits: 1" in (verifier / "config.yaml").read_text()
    prompts = {json.loads(line)["prompt"] for line in (data / "samples.jsonl").read_text().splitlines()}
    assert all(re.fullmatch(r"(\d+)\+\1=\?", prompt) for prompt in prompts)
    assert "val/answered" in names(metric)
    assert "| 1 | train/loss |" in (logger / "metrics.md").read_text()


def test_exercises_pass_the_lint_and_the_tests_that_glob_options(copy: Path) -> None:
    linted = run(copy, "-m", "ruff", "check", "--no-cache", "r1", "conf")
    assert linted.returncode == 0, linted.stdout
    formatted = run(copy, "-m", "ruff", "format", "--no-cache", "--check", "r1")
    assert formatted.returncode == 0, formatted.stdout
    options = "brevity or reinforce or rounded or doubles or markdown"
    files = [
        "test_structure.py",
        "test_words.py",
        "reward/test_fuzz.py",
        "data/test_verifier_fuzz.py",
        "core/test_metrics.py",
        "stage/validation/test_evaluate.py",
    ]
    rest = "listed or lightning or names or commands or meaning or retired or registered or hand_computation"
    flags = ["-p", "no:cacheprovider", "-p", "no:xdist", "-k", f"{options} or {rest}"]
    tested = run(copy, "-m", "pytest", *flags, *(f"tests/{file}" for file in files), "tests/stage/test_invariance.py")
    assert tested.returncode == 0, tested.stdout[-3000:]
