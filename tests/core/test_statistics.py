"""Intervals, by hand."""

from __future__ import annotations

import pytest

from r1.core.statistics import mean


def test_interval_of_a_mean_stays_in_the_range_of_its_quantity() -> None:
    rare = [0.0] * 15 + [1.0]  # 0.0625 +- 1.96 * 0.25 / 4
    assert mean(rare, 4).low == pytest.approx(0.0625 - 1.959964 * 0.0625, abs=1e-6)
    assert mean([0.0, 0.0, 4.0], 2).low == pytest.approx(4 / 3 * (1 - 1.959964), abs=1e-6)
    assert mean([0.0, 0.0, 4.0], 2, lowest=0.0).low == 0.0
