"""The sweep files that ship: each is right, says what it asks, and measures what no swept weight changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1.compose import CONF
from r1.sweep.check import checked_sweep

FILES = sorted((CONF.parent / "sweeps").glob("*.yaml"))
POINTS = {"group_size": 5, "hyperband": 7, "lr_kl": 5, "pipeline": 3, "reward_weights": 9, "seeds": 1}


def test_all_are_known() -> None:
    assert [file.stem for file in FILES] == sorted(POINTS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_point_can_run(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep, points = checked_sweep(str(file))
    assert (sweep.name, sweep.metric, sweep.goal) == (file.stem, "val/pass@1", "maximize")
    assert len(points) == POINTS[file.stem]
    assert file.read_text().startswith("# "), "the question that it answers"
    assert "?" in file.read_text().partition("\n")[0]
    assert list(tmp_path.iterdir()) == [], "nothing was written"
