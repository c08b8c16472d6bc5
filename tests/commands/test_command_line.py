"""The command ``r1``: help, version, dispatch, and errors on one screen."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import r1
from r1.__main__ import COMMANDS, help_text, main
from r1.core.command import ArgumentParser
from r1.core.errors import CONFIG
from r1.core.paths import PACKAGE, ROOT


def run_r1(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    """``r1 ARGV`` in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["r1", *argv])
    try:
        main()
    except SystemExit as end:
        return int(str(end.code))
    return 0


def test_commands_are_the_files_at_the_top_and_the_folder_with_a_main() -> None:
    files = {file.stem for file in PACKAGE.glob("[!_]*.py")} - {"library"}
    assert set(COMMANDS) == files | {folder.parent.name for folder in PACKAGE.glob("*/__main__.py")}


def test_entry_point_is_main() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["r1"].partition(":")
    assert getattr(import_module(module), function) is main


def test_help_says_what_r1_is_and_names_every_command() -> None:
    text = help_text()
    assert text.startswith("r1 composes DeepSeek-R1-style post-training experiments")
    assert "Hydra" not in text
    lines = text.splitlines()
    assert [next(name for name in COMMANDS if line.startswith(f"  {name} ")) for line in lines[4 : 4 + len(COMMANDS)]]
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_need_no_package_but_the_standard_library(tmp_path: Path, flag: str) -> None:
    command = [sys.executable, "-S", "-X", "importtime", "-m", "r1", flag]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("r1 ")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {name for name in imported if name.startswith("r1.")} == set()


def test_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_r1(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"r1 {r1.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["rnu"], "did you mean `run`?"),
        (["eval"], None),
        (["stage=sft"], "r1 run stage=sft"),
        (["-m", "seed=0,1"], "r1 run -m"),
        (["+model/lora=default"], "r1 run +model/lora=default"),
    ],
)
def test_unknown_command_is_one_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str], hint: str | None
) -> None:
    assert run_r1(monkeypatch, *argv) == CONFIG
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == ("", "r1: r1 has no such command")
    assert hint is None or err.splitlines()[-1] == f"  hint     {hint}"


def test_command_gets_its_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_r1(monkeypatch, "run", "--cfg", "job", "stage=sft", "-p", "stage.optimizer") == 0
    assert "_target_: r1.stage.optimizer.adamw.adamw" in capsys.readouterr().out


def test_run_help_says_what_r1_is_before_the_groups(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_r1(monkeypatch, "run", "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("r1 composes")
    assert out.index("r1 run -m stage.lr") < out.index("--cfg job") < out.index("dapo") < out.index("r1 options GROUP")
    assert " _base" not in out
    assert "powered by Hydra" not in out


@pytest.mark.parametrize(("typed", "prog"), [("r1 report", "r1 report"), ("/x/r1/report.py", "python -m r1.report")])
def test_usage_shows_the_command_as_it_was_typed(monkeypatch: pytest.MonkeyPatch, typed: str, prog: str) -> None:
    monkeypatch.setattr(sys, "argv", [typed])
    assert ArgumentParser("r1 report RUN...: one HTML page").format_usage() == f"usage: {prog} [-h]\n"
