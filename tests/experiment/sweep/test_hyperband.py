"""Which runs hyperband stops: worked out by hand, and as sweeps 0.3.0 documents it (test_oracle.py asks the engine)."""

from __future__ import annotations

from typing import Any

from r1.experiment.sweep.hyperband import Hyperband

LOSSES = [[10, 9], [10, 10], [10, 8, 8], [10, 7, 7], [10, 6, 6]]  # the example of sweeps.stop_runs
DOWN = {"type": "hyperband", "max_iter": 5, "eta": 2, "s": 2}


def stopped(spec: dict[str, Any], goal: str, histories: list[list[float]]) -> list[int]:
    rule = Hyperband({"type": "hyperband"} | spec, goal)
    return [i for i, history in enumerate(histories) if rule.should_stop(history, histories)]


def test_bands_from_max_iter_match_hand_computation() -> None:
    assert Hyperband(DOWN, "minimize").bands == [2, 1]
    assert Hyperband({"type": "hyperband", "max_iter": 27, "s": 5}, "minimize").bands == [9, 3, 1]


def test_hyperband_keeps_the_best_share_at_a_band() -> None:
    # at 2 values: 9, 10, 8, 7, 6; sorted 6 7 8 9 10; int(5 / 2) = 2: the threshold is 8, which 9 and 10 miss
    assert stopped(DOWN, "minimize", LOSSES) == [0, 1]
    assert stopped(DOWN, "maximize", [[-v for v in history] for history in LOSSES]) == [0, 1]


def test_bands_from_min_iter_match_hand_computation() -> None:
    rates = [[0.1], [0.1, 0.2], [0.2, 0.1], [0.3, 0.5, 0.6, 0.1], []]
    # eta 2, bands 1 2 4: at 1 value the threshold is the 3rd best of 0.3 0.2 0.1 0.1 (0.1), at 2 the 2nd best of
    # 0.5 0.2 0.1 (0.2), at 4 the only one
    assert stopped({"min_iter": 1, "eta": 2}, "maximize", rates) == [2]


def test_hyperband_uses_the_last_band_reached() -> None:
    # eta 1.5: bands 2, 3, 4 (4.5) and so on; at 4 values the threshold is the best of two, int(2 / 1.5) = 1: the other
    rule = Hyperband({"type": "hyperband", "min_iter": 2, "eta": 1.5}, "minimize")
    assert rule._bands_from_min_iter(4) == [2, 3, 4]


def test_strict_hyperband_compares_at_the_band_only() -> None:
    losses = [[1.0, 5.0], [2.0, 3.0], [3.0, 4.0]]  # at 2 values: 3 4 5; int(3 / 3) = 1: the threshold is 4
    assert stopped({"min_iter": 2}, "minimize", losses) == [0]
    assert stopped({"min_iter": 2, "strict": False}, "minimize", losses) == []
