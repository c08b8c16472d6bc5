"""The learning rate's schedule against the number of steps."""

from __future__ import annotations

from typing import Any

import pytest

from r1.stage.training.optimization import schedule_notes


@pytest.mark.parametrize(
    ("knobs", "num_steps", "words"),
    [
        ({"warmup_steps": 9, "decay_steps": None}, 10, ""),
        ({"warmup_steps": 10, "decay_steps": None}, 10, "never reaches stage.lr"),
        ({"warmup_steps": 10, "decay_steps": 3}, 10, "never reaches stage.lr"),
        ({"warmup_steps": 4, "decay_steps": 6}, 10, ""),
        ({"warmup_steps": 4, "decay_steps": 7}, 10, "6 steps follow the warm-up"),
        ({"warmup_steps": 0, "decay_steps": 100}, 10, "10 steps follow the warm-up"),
    ],
)
def test_schedule_notes_name_the_part_without_room(knobs: Any, num_steps: int, words: str) -> None:
    notes = list(schedule_notes(knobs, num_steps))
    assert len(notes) == bool(words)
    assert words in "".join(notes)
