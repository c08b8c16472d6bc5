"""The table of exit codes in docs/promises.md is the code's."""

from __future__ import annotations

import fcntl
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Commands

from r1.core import errors
from r1.core.console import print_error
from r1.core.errors import Interrupted, TrainingHalted, UserError
from r1.core.paths import ROOT
from r1.distributed.process import describe_exit

pytestmark = pytest.mark.slow

CODES = {"CONFIG": 2, "DATA": 3, "MODEL": 4, "REWARD": 5, "HALTED": 6, "STORAGE": 74, "LOCKED": 75}


def test_exit_codes_are_those_of_the_documented_table() -> None:
    table = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    rows = re.findall(r"^\| (\d+|128 \+ n) \| (\S.*) \|$", table, re.MULTILINE)
    assert [code for code, _ in rows] == ["0", "1", *(str(code) for code in CODES.values()), "128 + n"]
    assert {name: getattr(errors, name) for name in CODES} == CODES


@pytest.mark.parametrize("code", CODES.values())
def test_print_error_returns_the_code_of_the_error(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_error(UserError("a fault", code=code)) == code
    assert capsys.readouterr().err == "r1: a fault\n"


def test_guards_and_signals_have_their_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainingHalted("the loss is not finite", 1.0).code == 6
    assert [Interrupted(number).code for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == [130, 143, 129]
    monkeypatch.setenv("R1_SWEEP", "s")
    assert Interrupted(signal.SIGTERM).code == 0


FAULTY = """
import os, signal
import lightning as L

def act(how):
    if how == "raises":
        raise ZeroDivisionError("a bug")
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))

def term(completions, *, how):
    act(how)
    return [float(len(text)) for text in completions]

class Callback(L.Callback):
    def __init__(self, how):
        self.how = how
    def on_train_batch_start(self, *args):
        act(self.how)
"""
TINY = [
    *("model=tiny_xs", "threads=1", "val.num_prompts=2", "val.num_samples=2", "val.ks=[1]", "data.num_train=64"),
    *("data.num_val=8", "rollout.max_completion_length=8", "trainer.accelerator=cpu", "extensions=[faulty]"),
]
GRPO = [*TINY, "stage=grpo", "stage.group_size=2", "stage.examples_per_step=2", "trainer.max_steps=1"]
SFT = [*TINY, "stage=sft", "stage.examples_per_step=2", "stage.micro_batch_size=2", "trainer.max_steps=2"]
EVAL = [*TINY, "stage=eval"]


def term(how: str) -> str:
    """A reward term; the checks before the start call it, too."""
    return f"+reward.terms.t={{_target_: faulty.term, weight: 1.0, how: {how}}}"


def callback(how: str) -> str:
    return f"+callbacks.c={{_target_: faulty.Callback, how: {how}}}"


EXITS = [
    (["r1.run", *EVAL], 0, ""),
    (["r1.run", *SFT, callback("raises")], 1, "ZeroDivisionError: a bug"),
    (["r1.reproduce", "changed", "--output-dir", "again"], 1, "differ"),
    (["r1.run", "stage=sft", "stage.lr=fast"], 2, "r1: wrong value for `stage.lr`"),
    (["r1.compare"], 2, "the following arguments are required"),
    (["r1.run", "stage=sft", "data=dataset", "data.path=missing.jsonl"], 3, "r1: "),
    (["r1.compare", "missing", "missing"], 3, "r1: "),
    (["r1.run", "stage=sft", "model.path=missing"], 4, "r1: "),
    (["r1.run", *GRPO, term("raises")], 5, "r1: "),
    (["r1.run", *SFT, "stage.lr=1e30", "stage.warmup_steps=0", "trainer.max_steps=9"], 6, "r1: the run was stopped"),
    (["r1.run", "stage=sft", "output_dir=FILE/run"], 74, "r1: "),
    (["r1.run", "stage=sft", f"output_dir={'x' * 300}"], 74, "r1: "),
    (["r1.run", "stage=sft", f"name={'x' * 300}"], 74, "r1: "),
    (["r1.run", *EVAL, "output_dir=locked", "resume=auto"], 75, "r1: another process is writing this run"),
    (["r1.run", *SFT, callback("SIGTERM")], 143, ""),
    (["r1.run", *SFT, callback("SIGINT")], 130, ""),
    (["r1.run", *SFT, callback("SIGHUP")], 129, ""),
    (["r1.run", *GRPO, term("SIGTERM")], 143, ""),
    (["r1.run", *GRPO, term("SIGINT")], 130, ""),
    (["r1.run", *GRPO, term("SIGKILL")], 137, ""),
    (["r1.run", "-m", *GRPO, term("raises"), "reward.terms.t.how=fine,raises"], 5, "r1: "),
]


@pytest.fixture(scope="module")
def world(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with code that fails, a run that another process writes, and one whose record was changed."""
    folder = tmp_path_factory.mktemp("exits")
    (folder / "faulty.py").write_text(FAULTY)
    (folder / "FILE").touch()
    assert commands("r1.run", *EVAL, "output_dir=changed", cwd=folder).returncode == 0
    manifest = json.loads((folder / "changed" / "manifest.json").read_text())
    manifest["metrics"]["final"]["val/pass@1"]["value"] = 0.123
    (folder / "changed" / "manifest.json").write_text(json.dumps(manifest))
    (folder / "locked").mkdir()
    with (folder / "locked" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.mark.parametrize(
    ("argv", "code", "message"), EXITS, ids=[f"{code}-{i}" for i, (_, code, _) in enumerate(EXITS)]
)
def test_command_exits_with_the_code_of_its_end(
    commands: Commands, world: Path, argv: list[str], code: int, message: str
) -> None:
    done = commands(*argv, cwd=world)
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr
    assert done.stderr.count("\nr1: ") + done.stderr.startswith("r1: ") == (message.startswith("r1: "))
    assert ("Traceback" in done.stderr) == ("a bug" in message)


def test_every_documented_code_is_that_of_a_command() -> None:
    codes = {code for _, code, _ in EXITS}
    assert {*range(7), 74, 75} < codes
    assert {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)} < codes


def test_describe_exit_names_the_signal() -> None:
    assert describe_exit(-9) == "killed by SIGKILL: out of memory?"
    assert describe_exit(-15) == "killed by SIGTERM"
    assert describe_exit(3) == "exited with code 3"
