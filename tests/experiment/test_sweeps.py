"""The sweep files that ship: each is right, says what it asks, and measures what no swept weight changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1.core.paths import CONF
from r1.experiment.sweep.check import load_and_compose
from r1.experiment.sweep.preview import print_preview

FILES = sorted((CONF.parent / "sweeps").glob("*.yaml"))
POINTS = {
    "group_size": 5,
    "hyperband": 7,
    "lr_kl": 5,
    "minibatches": 15,
    "pipeline": 3,
    "reward_weights": 6,
    "seeds": 1,
}
MANY = ("hyperband", "minibatches", "pipeline", "reward_weights")  # the points of these take the longest to check
COMES_TO = {
    "group_size": "25 points = 5 settings x 5 seeds, budget=sequences; each checked",
    "hyperband": "40 points, budget=sequences; 7 points checked, at the ends of each range",
    "lr_kl": "30 x 0:38 = 19:00 one after the other, 9:30 with 2 workers",
    "minibatches": "75 points = 15 settings x 5 seeds, budget=steps; each checked",
    "pipeline": "rl 16 x 8 = 128 12,800 100 ~0:38",
    "reward_weights": "every point 16 x 8 = 128 6,400 50 ~0:17",
    "seeds": "8 x 0:38 = 5:04 one after the other, 2:32 with 2 workers",
}


def test_shipped_sweeps_are_all_tested() -> None:
    assert [file.stem for file in FILES] == sorted(POINTS)


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=[pytest.mark.long] if file.stem in MANY else [], id=file.stem) for file in FILES],
)
def test_shipped_sweep_points_compose(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep, points = load_and_compose(str(file))
    assert (sweep.name, sweep.metric, sweep.goal) == (file.stem, "val/pass@1", "maximize")
    assert len(points) == POINTS[file.stem]
    assert file.read_text().startswith("# "), "the question that it answers"
    assert "?" in file.read_text().partition("\n")[0]
    print_preview(sweep, points, workers=2)
    said = " ".join(capsys.readouterr().err.split())
    assert COMES_TO[file.stem] in said
    assert list(tmp_path.iterdir()) == [], "nothing was written"
