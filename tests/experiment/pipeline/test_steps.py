"""Overrides in layers, and steps in an order in which they can run."""

from __future__ import annotations

import pytest

from r1.config.overrides import parse_overrides
from r1.core.override_text import path_value
from r1.experiment.pipeline.steps import PipelineStep, merge_overrides, sort_steps


@pytest.mark.parametrize(
    ("earlier", "later", "both"),
    [
        ("a.b=1", "a.b=2", ["a.b=2"]),
        ("+a.b=1", "a.b=2", ["+a.b=2"]),
        ("+a.b=1", "++a.b=2", ["++a.b=2"]),
        ("++a.b=1", "a.b=2", ["a.b=2"]),
        ("+a.b=1", "~a.b", []),
        ("a.b=1", "~a.b", ["~a.b"]),
        ("stage=sft", "stage=eval", ["stage=eval"]),
        ("+g@x.y=1", "g@x.y=2", ["+g@x.y=2"]),
        ("+g@x.y=1", "+g@x.z=2", ["+g@x.y=1", "+g@x.z=2"]),
    ],
)
def test_merge_overrides_keeps_the_later_one(earlier: str, later: str, both: list[str]) -> None:
    assert merge_overrides([earlier], [], [later]) == both


def test_sort_steps_puts_needed_steps_first() -> None:
    texts = {"d": ["x=${step:b}/best", "y='${step:c}'"], "a": ["x=1"], "b": ["x=${step:a}"], "c": ["x=1"]}
    in_order = sort_steps({name: PipelineStep([], [overrides]) for name, overrides in texts.items()})
    assert list(in_order) == ["a", "b", "c", "d"]
    assert {name: step.needs for name, step in in_order.items()} == {"a": [], "b": ["a"], "c": [], "d": ["b", "c"]}


@pytest.mark.parametrize("path", ["outputs/a/steps", "/tmp/a b/c,d=(e)", r"x\y [1]{2}:3"])
def test_escaped_path_is_parsed_unchanged(path: str) -> None:
    assert parse_overrides([f"output_dir={path_value(path)}"])[0].value() == path
