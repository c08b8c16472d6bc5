"""Version, changelog, citation and interpreters agree with each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import r1
from r1.core.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ["3.11", "3.12", "3.13"]


def test_citation_is_of_the_newest_dated_version_of_the_changelog() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version, date = re.findall(r"^## (\d[\w.]*) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    assert (citation["version"], str(citation["date-released"])) == (version, date)
    assert citation["license"] == PROJECT["license"]
    assert Version(r1.__version__) >= Version(version)


def test_classifiers_are_the_pythons_that_make_takes() -> None:
    minors = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text]
    assert minors == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert f"for v in {' '.join(PYTHONS)};" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    ("present", "broken", "taken"),
    [
        (["3.13"], [], "python3.13"),
        (["3.11", "3.13"], [], "python3.11"),
        (["3.12", "3.13"], ["3.11"], "python3.12"),  # a shim of a version that is not installed
        ([], [], "python3"),
    ],
)
def test_make_takes_the_first_python_that_runs(
    tmp_path: Path, present: list[str], broken: list[str], taken: str
) -> None:
    for version, code in [*((v, 0) for v in present), *((v, 127) for v in broken)]:
        file = tmp_path / "bin" / f"python{version}"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\nexit {code}\n")
        file.chmod(0o755)
    command = [shutil.which("make") or "make", "-n", "run", f"VENV={tmp_path}/venv", "SHELL=/bin/sh"]
    env = {**os.environ, "PATH": str(tmp_path / "bin")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert f"|| {taken} -m venv {tmp_path}/venv" in done.stdout


def test_files_for_people_are_there() -> None:
    for name in ("CITATION.cff", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"):
        assert (ROOT / name).stat().st_size > 100
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"):
        head = yaml.safe_load(file.read_text().split("---")[1])
        assert {"name", "about", "labels"} <= head.keys()
