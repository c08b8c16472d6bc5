"""The registry of metrics: which line describes a name, and what the report and the sweeps read from it."""

from __future__ import annotations

import pytest

from r1.core.metrics import METRICS, PRIMARY_METRICS, display_order, meaning, metric_named, primary_metric


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
    assert meaning("val/reflection") == "share of completions that re-check or correct themselves"


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
