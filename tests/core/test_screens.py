"""Commands whose stdout or stderr goes away: the exit code stays that of the work, and nothing is printed about it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import logging, os, sys
from r1.core.command import run_command
from r1.core.errors import DATA, UserError

def work():
    logging.basicConfig(stream=sys.stderr)
    for _ in range(3000):
        print("a long line on stdout " * 5)
        print("a long line on stderr " * 5, file=sys.stderr)
    logging.warning("by the logging module")
    from r1.core.console import console
    console.print("by rich")
    from tqdm import tqdm
    list(tqdm(range(3)))
    opened = os.open(os.devnull, os.O_RDONLY)
    assert opened > 2, "a file has the number of a screen"
    with open("done", "w") as done:
        done.write("yes")
    if CODE:
        raise UserError("the work has failed", code=CODE)

run_command(work)
"""
SCREENS = ["> /dev/full", "2> /dev/full", "> /dev/full 2>&1", "2>&1 | head -1", "2>&1 >/dev/null | head -1"]
SCREENS += ["| true", ">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full | true"]


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("screens", SCREENS)
def test_command_whose_screens_go_away_ends_with_the_code_of_its_work(tmp_path: Path, screens: str, code: int) -> None:
    (tmp_path / "work.py").write_text(f"CODE = {code}\n{WORK}")
    script = f"{sys.executable} -W ignore work.py {screens}; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr[-2000:]
    assert (tmp_path / "done").read_text() == "yes"
    assert not any(word in ended.stderr for word in ("Traceback", "Exception ignored", "Logging error"))


@pytest.mark.parametrize("verb", ["run", "report", "sweep", "run --hydra-help"])
def test_help_into_closed_pipe_prints_no_traceback(verb: str) -> None:
    module, *options = verb.split()
    command = " ".join([sys.executable, "-m", f"r1.{module}", *(options or ["--help"])])
    for screens in ("| true", "> /dev/full"):
        script = f"{command} {screens}; exit ${{PIPESTATUS[0]}}"
        ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
