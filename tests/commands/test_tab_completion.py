"""Tab completion: the candidates of a line, and the shells' own functions."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1.completion import SCRIPTS, candidates
from r1.core.paths import ROOT


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("r1 rep", ["report ", "reproduce "]),
        ("r1 run stage=s", ["stage=sft "]),
        ("r1 run stage/lo", ["stage/loss="]),
        ("r1 run stage/loss=dr", ["stage/loss=dr_grpo "]),
        ("r1 run stage.group_s", ["stage.group_size="]),
        ("r1 run sta", ["stage.", "stage/", "stage="]),
        ("r1 run stage=sft stage.loss_", ["stage.loss_on_prompt="]),
        ("r1 run stage=sft stage.group_s", []),
        ("r1 run stage=nonsense stage.group_s", ["stage.group_size="]),
        ("r1 run stage=sft 'unfinished stage.loss_", ["stage.loss_on_prompt="]),
        ("r1 run -m stage=grpo,sf", ["stage=grpo,sft "]),
        ("r1 run experiment=papers/da", ["experiment=papers/dapo "]),
        ("r1 run +reward/terms@reward.terms.x=len", ["+reward/terms@reward.terms.x=length "]),
        ("r1 run +model/l", ["+model/lora="]),
        ("r1 run callbacks=[timer,early", ["callbacks=[timer,early_stopping"]),
        ("r1 run val.gr", ["val.greedy="]),
        ("r1 run val.greedy=", ["val.greedy=true ", "val.greedy=false "]),
        ("r1 run val.sampling.top", ["val.sampling.top_k=", "val.sampling.top_p="]),
        ("r1 run ~reward.terms.f", ["~reward.terms.format."]),
        ("r1 run --c", ["--cfg job ", "--config-dir "]),
        ("r1 run model.path=", []),
        ("r1 report out", []),
        ("r1 options stage/loss/d", ["stage/loss/dapo ", "stage/loss/dr_grpo "]),
        ("r1 config ex", ["explain "]),
        ("r1 config explain stage.lr", ["stage.lr "]),
        ("r1 config explain stage.lr experiment=re", ["experiment=real "]),
        ("r1 config schema data/te", ["data/template "]),
        ("r1 completion z", ["zsh "]),
        ("r1", []),
        ("", []),
    ],
)
def test_candidates_of_a_line(line: str, words: list[str]) -> None:
    assert candidates(line) == words


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which ``r1`` is this checkout's."""
    script = tmp_path / "bin" / "r1"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m r1 "$@"\n')
    script.chmod(0o755)
    return f"{script.parent}:{os.environ['PATH']}"


def test_bash_leaves_out_what_it_has_split_off(path: str) -> None:
    """Bash replaces the text behind the last ``=`` or ``:``, so the candidates must not repeat what is before it."""
    call = 'COMP_LINE="r1 run stage=gr -x" COMP_POINT=15; _r1; printf "%s|" "${COMPREPLY[@]}"'
    env = os.environ | {"PATH": path}
    command = ["bash", "--norc", "-c", f"{SCRIPTS['bash']}\n{call}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("grpo |", "")


@pytest.mark.slow
@pytest.mark.parametrize("shell", [["bash", "--norc", "-i"], ["zsh", "-f", "-i"]], ids=["bash", "zsh"])
def test_tab_in_a_real_shell_completes_the_line(path: str, shell: list[str], tmp_path: Path) -> None:
    if not shutil.which(shell[0]):
        pytest.skip(f"{shell[0]} is not installed")
    (tmp_path / "records").mkdir()
    typed = {
        "r1 swe\t": "r1 sweep ",
        "r1 run stage=gr\t": "r1 run stage=grpo ",
        "r1 run stage/lo\tdap\t": "r1 run stage/loss=dapo ",
        "r1 run stage.grou\t": "r1 run stage.group_size=",
        "r1 run +reward/terms@reward.terms.x=len\t": "r1 run +reward/terms@reward.terms.x=length ",
        "r1 report rec\t": "r1 report records/",
        "r1 run model.path=rec\t": "r1 run model.path=records/",
    }
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.environ.update(PATH=path, PS1="$ ", TERM="dumb", LC_ALL="C.UTF-8")
        os.execvp(shell[0], shell)
    try:
        send(terminal, f'eval "$(r1 completion {shell[0]})"; echo rea""dy\n', "ready")
        for keys, line in typed.items():
            assert send(terminal, keys, line).endswith(line)
            send(terminal, "\x15", "")
    finally:
        os.kill(process, 9)
        os.close(terminal)
        os.waitpid(process, 0)


def send(terminal: int, keys: str, expected: str) -> str:
    """Type keys; the screen's text until it holds ``expected``, at most half a minute."""
    os.write(terminal, keys.encode())
    text, end = "", time.monotonic() + 30
    while time.monotonic() < end and (not expected or expected not in text):
        if select.select([terminal], [], [], 0.3)[0]:
            text += os.read(terminal, 65536).decode(errors="replace")
        elif not expected:
            break
    return text.rstrip("\r\n")
