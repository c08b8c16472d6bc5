"""Runs grouped by what they differ in, and figures over seeds against a table of Student's t."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import stdev

import pytest

from r1.core.statistics import Estimate, mean_over_seeds, pool_seeds
from r1.experiment.report.gather import gather
from r1.experiment.report.variants import variants

MakeRecord = Callable[..., Path]


def test_variants_group_seeds_of_one_config(record: MakeRecord, tmp_path: Path) -> None:
    for group_size in (2, 8):
        for seed in range(3 if group_size == 8 else 1):
            record(f"g{group_size}_{seed}", seed=seed, group_size=group_size)
    best, other = variants(gather([str(tmp_path)]).runs, {})
    assert (best.name, other.name) == ("stage.group_size=8", "stage.group_size=2")
    assert [run.manifest["seed"] for run in best.runs] == [0, 1, 2]
    assert best.differing == {"stage.group_size": 8}
    figure = best.final["val/pass@1"]
    assert (figure.value, figure.n) == (pytest.approx(0.7), 3 * 64)
    assert figure.low == pytest.approx(0.7 - 4.303 * 0.1 / 3**0.5, abs=1e-3)
    assert other.final["val/pass@1"] == Estimate(0.6, pytest.approx(0.55), pytest.approx(0.65), 64)


def test_variants_single_run_is_named_by_its_stage(record: MakeRecord) -> None:
    (variant,) = variants(gather([str(record("a"))]).runs, {})
    assert (variant.name, variant.differing) == ("grpo", {})


def test_variants_unfinished_run_has_its_last_validation(record: MakeRecord) -> None:
    folder = record("a", status="running", metrics={"start": {}, "final": {}})
    (variant,) = variants(gather([str(folder)]).runs, {})
    assert variant.final["val/pass@1"] == Estimate(0.4, None, None, 0)
    assert variant.final["val/pass@1"].interval == ""


@pytest.mark.parametrize(("seeds", "t"), [(2, 12.706), (5, 2.776), (10, 2.262), (11, 2.228), (31, 2.042), (121, 1.980)])
def test_mean_over_seeds_half_width_is_students_t(seeds: int, t: float) -> None:
    values = [float(seed % 2) for seed in range(seeds)]
    made = mean_over_seeds(values)
    assert (made.high - made.value) * seeds**0.5 / stdev(values) == pytest.approx(t, abs=5e-4)


def test_pool_seeds_clips_shares_to_0_and_1() -> None:
    wide = pool_seeds([Estimate(0.5, 0.4, 0.6, 1), Estimate(0.9, 0.8, 1.0, 1)])
    assert (wide.low, wide.high) == (0.0, 1.0)
    assert pool_seeds([Estimate(20, 19, 21, 1), Estimate(10, 9, 11, 1)]).high == pytest.approx(
        15 + 12.706 * 5, abs=1e-2
    )
