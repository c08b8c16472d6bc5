"""Writes docs/reference/metrics.md: every metric of the registry, in the report's order.

python docs/make_metrics.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from r1.core.metrics import PER_PART, TRAINING, VALIDATION, Metric

PAGE = Path(__file__).parent / "reference" / "metrics.md"
HEAD = """# Metrics

The names in `metrics.jsonl` and in a manifest's `metrics`, written from the registry (`r1/core/metrics.py`) by
`python docs/make_metrics.py`; a test holds the page to it. `*` stands for any text. A validation metric is recorded as
`{value, low, high, n}` in the manifest, with a 95 % interval where it has one.
"""


def page() -> str:
    """The text of the page."""
    parts = {"Validation": VALIDATION, "Parts of a mixture, values of `val.by`": PER_PART, "Training": TRAINING}
    return "\n".join([HEAD, *(line for title, metrics in parts.items() for line in section(title, metrics))])


def section(title: str, metrics: Iterable[Metric]) -> list[str]:
    """A heading and a table."""
    rows = [f"| `{m.name}` | {m.meaning} | {m.unit} | {m.better or ''} |" for m in metrics]
    return [f"## {title}", "", "| name | meaning | unit | better |", "|---|---|---|---|", *rows, ""]


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
