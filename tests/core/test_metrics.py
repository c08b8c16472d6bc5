"""The registry of metrics: which line describes a name, and what the report and the sweeps read from it."""

from __future__ import annotations

import pytest

from r1.core.metrics import (
    METRICS,
    PRIMARY_METRICS,
    display_order,
    meaning,
    metric_named,
    primary_metric,
    sharpening,
)
from r1.core.statistics import Estimate


@pytest.mark.parametrize(
    ("name", "registered"),
    [
        ("val/pass@1", "val/pass@1"),
        ("val/pass@16", "val/pass@*"),
        ("val/maths/pass@1", "val/*/pass@1"),
        ("val/reward/format", "val/reward/*"),
        ("reward/format_weighted", "reward/*_weighted"),
        ("time/teacher", "time/*"),
    ],
)
def test_metric_named_returns_the_first_match(name: str, registered: str) -> None:
    assert metric_named(name).name == registered


def test_metric_named_unknown_metric_has_no_meaning() -> None:
    assert (metric_named("mine").better, meaning("mine")) == (None, "")
    assert display_order("mine") > max(display_order(metric.name) for metric in METRICS)


def test_meaning_ends_with_the_unit() -> None:
    assert meaning("val/completion_length") == "length of a completion (tokens)"
    assert meaning("val/reflection") == "reflective words (wait, mistake, however, ...) per completion"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_described_by_its_own_line(metric: object) -> None:
    assert metric_named(metric.name.replace("*", "x")) == metric


def test_primary_metric_is_the_most_important_one_present() -> None:
    assert primary_metric(["val/format", "val/reward"]) == "val/reward"
    assert primary_metric([]) == PRIMARY_METRICS[0] == "val/pass@1"


def test_metrics_of_a_part_improve_as_the_whole() -> None:
    parts = {metric.name.rpartition("/")[2]: metric for metric in METRICS if metric.name.startswith("val/*/")}
    assert parts.keys() == {metric.label for metric in METRICS if metric.per_part}
    assert {label: metric_named(f"val/{label}").better for label in parts} == {k: m.better for k, m in parts.items()}


def passes(*values: float, half: float = 0.02) -> dict[str, Estimate]:
    """Estimates of pass@1, pass@4 and pass@8."""
    names = ("val/pass@1", "val/pass@4", "val/pass@8")
    return {name: Estimate(v, v - half, v + half, 64) for name, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("start", "final", "note"),
    [
        ((0.4, 0.7, 0.9), (0.6, 0.8, 0.95), ""),
        ((0.4, 0.7, 0.9), (0.3, 0.6, 0.8), ""),  # all fall: the model is worse
        ((0.4, 0.7, 0.9), (0.4, 0.7, 0.8), ""),  # pass@1 does not rise
        ((0.4, 0.7, 0.9), (0.6, 0.7, 0.9), ""),
        ((0.4, 0.7, 0.9), (0.6, 0.7, 0.8), "rose from 0.400 to 0.600, but pass@8 fell from 0.900 to 0.800: sharper"),
        ((0.4, 0.7, 0.9), (0.6, 0.7, 0.89), "pass@8 fell from 0.900 to 0.890 (within the intervals): sharper"),
        ((0.4, 0.7, 0.9), (0.6, 0.6, 0.8), "pass@4 fell from 0.700 to 0.600, pass@8 fell from 0.900 to 0.800: sharper"),
        ((0.4, 0.7, 0.90001), (0.6, 0.7, 0.9), ""),  # the table shows no fall
    ],
)
def test_sharpening_notes_a_pass_at_k_that_falls_while_pass_at_1_rises(
    start: tuple[float, ...], final: tuple[float, ...], note: str
) -> None:
    text = sharpening(passes(*start), passes(*final))
    assert note in text
    assert bool(text) == bool(note)
    assert sharpening({}, passes(*final)) == ""
