"""Command lines before anything is composed."""

from __future__ import annotations

import pytest

from r1.config.overrides import drop_repeated


@pytest.mark.parametrize(
    ("argv", "expected", "repeated"),
    [
        (["stage.lr=1", "seed=3", "stage.lr=2"], ["seed=3", "stage.lr=2"], ["stage.lr"]),
        (["stage=sft", "stage=grpo"], ["stage=grpo"], ["stage"]),
        (["stage.lr=1", "++stage.lr=2"], ["++stage.lr=2"], ["stage.lr"]),
        (["+a.b=1", "a.b=2"], ["+a.b=2"], ["a.b"]),
        (["+a.b=1", "~a.b"], [], ["a.b"]),
        (["~a.b", "a.b=1"], ["a.b=1"], ["a.b"]),
        (["-m", "seed=0,1", "seed=2,3", "seed=4"], ["-m", "seed=4"], ["seed", "seed"]),
        (["steps.rl.seed=1", "steps.sft.seed=1"], ["steps.rl.seed=1", "steps.sft.seed=1"], []),
        (["--cfg", "job", "--config-dir", "job"], ["--cfg", "job", "--config-dir", "job"], []),
        (["+stage@one=grpo", "+stage@two=grpo"], ["+stage@one=grpo", "+stage@two=grpo"], []),
        (["x={", "x={"], ["x={", "x={"], []),  # unreadable: reported later
    ],
)
def test_last_override_of_a_key_counts_with_a_note(
    argv: list[str], expected: list[str], repeated: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert drop_repeated(argv) == expected
    notes = [f"r1  {key} is given twice: the last one counts" for key in repeated]
    assert capsys.readouterr().err.splitlines() == notes
