"""r1 compare A B: the differences of two runs in config, code, data, packages and metrics."""

from __future__ import annotations

from typing import Any

from r1.core.command import ArgumentParser, run_command
from r1.core.provenance import differences
from r1.core.runs import RunRecord, read_run

IGNORED_KEYS = ("output_dir", "resume", "dry_run")  # they do not change a run's result


def sections(a: RunRecord, b: RunRecord) -> dict[str, list[tuple[str, Any, Any]]]:
    """All differences by kind, metrics last."""

    def compared(*keys: str) -> list[tuple[str, Any, Any]]:
        left, right = ({key: run.manifest.get(key) for key in keys} for run in (a, b))
        return differences(left, right)

    configs = [{k: v for k, v in run.config.items() if k not in IGNORED_KEYS} for run in (a, b)]
    return {
        "config": differences(*configs),
        "code": compared("code", "git"),
        "data": compared("data", "parents", "inputs"),
        "environment": compared("packages", "hardware"),
        "status": compared("status", "error"),
    }


def metric_rows(a: RunRecord, b: RunRecord) -> list[tuple[str, str, str, str]]:
    """Final metrics of both runs: name, a, b, and the difference, marked where their intervals are disjoint."""
    finals = [run.manifest["metrics"]["final"] for run in (a, b)]
    rows = []
    for name in sorted(finals[0].keys() | finals[1].keys()):
        left, right = finals[0].get(name), finals[1].get(name)
        if left is None or right is None:
            difference = "only in one"
        elif left == right:
            difference = "equal"
        else:
            apart = left["high"] < right["low"] or right["high"] < left["low"]
            difference = f"{right['value'] - left['value']:+.3f}" + ("  intervals apart" if apart else "")
        rows.append((name, _estimate_text(left), _estimate_text(right), difference))
    return rows


def _estimate_text(estimate: dict[str, float] | None) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})" if estimate else "-"


def main() -> None:
    run_command(_main)


def _main() -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    def columns(*names: str) -> list[Column]:
        return [Column(name, overflow="fold") for name in names]  # cut short, two paths would look the same

    parser = ArgumentParser(__doc__)
    parser.add_argument("a", help="a run's folder")
    parser.add_argument("b", help="another run's folder")
    args = parser.parse_args()
    a, b = read_run(args.a), read_run(args.b)
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    for title, rows in sections(a, b).items():
        if not rows:
            console.print(f"{title}: the same")
            continue
        table = Table(*columns(title, args.a, args.b), box=SIMPLE_HEAD)
        for key, left, right in rows:
            table.add_row(key, str(left), str(right))
        console.print(table)
    table = Table(*columns("final metric", args.a, args.b, "difference"), box=SIMPLE_HEAD)
    for row in metric_rows(a, b):
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
