"""Curves by hand: mean and range over seeds, few enough points, nothing that JSON has no word for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from r1.experiment.report.curves import by_metric, charts, series, stacks
from r1.experiment.report.gather import gather
from r1.experiment.report.samples import MAX_TEXT, read_samples, samples, thin_out
from r1.experiment.report.variants import variants

MakeRecord = Callable[..., Path]


def test_series_band_is_the_range_over_seeds() -> None:
    assert series({10: [1.0, 3.0], 0: [0.0, 0.5], 20: [2.0]}, 10) == {
        "x": [0, 10, 20],
        "y": [0.25, 2.0, 2.0],
        "lo": [0.0, 1.0, 2.0],
        "hi": [0.5, 3.0, 2.0],
    }


def test_series_averages_neighbouring_steps() -> None:
    assert series({step: [float(step)] for step in range(5)}, 2) == {"x": [1.0, 3.5], "y": [1.0, 3.5]}


@given(st.integers(1, 2000), st.integers(1, 300))
def test_series_has_at_most_the_requested_points(steps: int, points: int) -> None:
    made = series({step: [0.0] for step in range(steps)}, points)
    assert len(made["x"]) == len(made["y"]) <= points
    assert made["x"] == sorted(made["x"])


def test_by_metric_drops_values_that_are_not_finite(record: MakeRecord) -> None:
    folder = record("a")
    with (folder / "metrics.jsonl").open("a") as out:
        out.write('{"step": 30, "train/loss": NaN, "train/kl": Infinity}\n')
    held = by_metric(gather([str(folder)]).runs)
    assert "train/kl" not in held
    assert 30 not in held["train/loss"]


def test_charts_of_two_variants(record: MakeRecord, tmp_path: Path) -> None:
    for name, group_size in (("a", 2), ("b", 8)):
        record(name, group_size=group_size)
    made = variants(gather([str(tmp_path)]).runs, {})
    found = {chart["name"]: chart for chart in charts(made, 1000)}
    assert next(iter(found)) == "val/pass@1"
    assert found["val/pass@1"]["main"]
    assert not found["reward/accuracy"]["main"]
    assert "reward/accuracy_weighted" not in found
    assert [s["v"] for s in found["train/reward"]["series"]] == [0, 1]
    assert found["val/pass@1"]["series"][0]["ci"] == [(0, 0.25, 0.35), (20, 0.55, 0.65)]
    assert [set(held["terms"]) for held in stacks(made, 1000)] == [{"accuracy", "format"}] * 2


def test_thin_out_is_even_and_keeps_the_last_row() -> None:
    rows = [{"step": i, "text": "x" * 100} for i in range(100)]
    kept = thin_out(rows, 2000)
    assert kept[0] == rows[0]
    assert kept[-1] == rows[-1]
    assert sum(len(str(row)) for row in kept[:-1]) <= 2000
    assert len(kept) > 10
    assert thin_out(rows, 10**6) == rows
    assert thin_out([], 10) == []


def test_read_samples_cuts_long_text_and_drops_nan(record: MakeRecord) -> None:
    folder = record(
        "a", samples=[{"step": 0, "completion": "x" * 10_000, "advantage": math.nan, "rewards": {"a": math.nan}}]
    )
    runs = gather([str(folder)]).runs
    (row,) = read_samples(runs[0])
    assert row["completion"] == "x" * MAX_TEXT + "\n[2000 more characters]"
    assert row["rewards"] == {}
    assert row.get("advantage") is None
    assert samples(variants(runs, {}), 10**6)[1] == 1
