"""The table of exit codes in docs/promises.md is the code's."""

from __future__ import annotations

import re
import signal
import sys

import pytest

from r1.core import errors
from r1.core.console import print_error
from r1.core.errors import Interrupted, TrainingHalted, UserError
from r1.core.paths import ROOT
from r1.distributed.process import describe_exit

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


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["stage.lr=fast"], 2),
        (["data=dataset", "data.path=missing.jsonl"], 3),
        (["model.path=missing"], 4),
        (["output_dir=FILE/run"], 74),
        ([f"output_dir={'x' * 300}"], 74),
        ([f"name={'x' * 300}"], 74),
    ],
)
def test_run_exits_with_the_code_of_its_error(
    argv: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    from r1.run import main

    monkeypatch.chdir(str(tmp_path))
    (open("FILE", "w")).close()
    monkeypatch.setattr(sys, "argv", ["r1.run", "stage=sft", *argv])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == code
    err = capsys.readouterr().err
    assert err.count("r1: ") == 1
    assert "Traceback" not in err


def test_describe_exit_names_the_signal() -> None:
    assert describe_exit(-9) == "killed by SIGKILL: out of memory?"
    assert describe_exit(-15) == "killed by SIGTERM"
    assert describe_exit(3) == "exited with code 3"
