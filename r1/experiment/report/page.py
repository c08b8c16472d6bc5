"""The report's page as HTML, with less detail where it would be too large otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1.core.metrics import meaning, metric_named, sharpening
from r1.core.provenance import flatten
from r1.core.runs import RunRecord
from r1.experiment.report.curves import charts, stacks
from r1.experiment.report.gather import CollectedRuns, LineageNode
from r1.experiment.report.html import HERE, html
from r1.experiment.report.samples import samples
from r1.experiment.report.sweep.analysis import Analysis, analyse
from r1.experiment.report.sweep.section import plot_data, section_data
from r1.experiment.report.variants import SeedGroup, variants

MAX_BYTES = 3_000_000
MAX_DRAWN, MAX_STACKS, MAX_ROWS = 10, 6, 400  # variants with curves, with stacked rewards, and in tables
POINTS, CHARS = 40_000, 1_000_000  # curve points and characters of completions
ROW_PX, ARC_PX = 36, 10  # of the lineage graph


def page(collected: CollectedRuns) -> str:
    """The HTML; with less detail where it would be too large otherwise."""
    groups = variants(collected.runs, collected.names)
    sweep = None if collected.names else analyse(collected.runs, collected.folder)
    for share in (1, 4, 16):
        text = _render(collected, groups, sweep, share)
        if len(text.encode()) < MAX_BYTES:
            break
    return text


def _render(collected: CollectedRuns, groups: Sequence[SeedGroup], sweep: Analysis | None, share: int) -> str:
    drawn, rows = groups[:MAX_DRAWN], groups[: MAX_ROWS // share]
    shown, total = samples(drawn, CHARS // share)
    data = {
        "names": [variant.name for variant in drawn],
        "charts": (curves := charts(drawn, POINTS // share)),
        "stacks": stacks(drawn[:MAX_STACKS], POINTS // share // 4),
        "samples": shown,
        "ranking": ranking(drawn),
        "sweep": plot_data(sweep) if sweep else None,
    }
    runs = [run for variant in rows for run in variant.runs][: MAX_ROWS // share]
    return html(
        HERE,
        data,
        ["sweep/sweep.js"] if sweep else [],
        collected=collected,
        sweep=section_data(sweep, MAX_ROWS // share) if sweep else None,
        variants=rows,
        drawn=drawn,
        columns=_columns(groups),
        tiles=_tiles(groups),
        runs=runs,
        total_runs=len(collected.runs),
        total_variants=len(groups),
        num_samples=(len(shown), total),
        graph=lineage_layout(collected.nodes),
        environment=environment_facts(collected.runs),
        config=_yaml(collected.runs[0]) if len(collected.runs) == 1 else "",
        differing=sorted({key for variant in rows for key in variant.differing}),
        meaning=meaning,
        sharpening=sharpening,
        describe=describe,
        has_curves=bool(curves),
    )


def describe(run: RunRecord) -> str:
    """``grpo on arithmetic from r1:tiny``: stage, data and model of a run."""
    leaves = flatten(run.config)
    stage, data = (str(leaves.get(f"{part}._target_", "?")).rpartition(".")[0] for part in ("stage", "data"))
    model = leaves.get("model.path") or "random weights"
    return f"{stage.rpartition('.')[2]} on {data.rpartition('.')[2]} from {model}"


def ranking(groups: Sequence[SeedGroup]) -> list[dict[str, Any]]:
    """The final pass@1 of each variant."""
    return [
        {"i": i, "name": group.name, "value": estimate.value, "low": estimate.low, "high": estimate.high}
        for i, group in enumerate(groups)
        if (estimate := group.final.get("val/pass@1"))
    ]


def _columns(groups: Sequence[SeedGroup]) -> list[str]:
    """The metrics of all groups, in display order, without duplicates."""
    names: dict[str, None] = {}
    for variant in groups:
        names |= dict.fromkeys(variant.final or variant.start)
    return list(names)


def _tiles(groups: Sequence[SeedGroup]) -> list[str]:
    """The metrics of a single group that are shown large."""
    if len(groups) != 1:
        return []
    # of maj@k, the one family among them, the last k
    tiles = {metric.name: name for name in groups[0].final if (metric := metric_named(name)).tile}
    return list(tiles.values())


def _yaml(run: RunRecord) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(run.config))


def environment_facts(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Environment and origin: fact -> its distinct values over all runs."""
    keys = ("git", "code", "data", "packages", "hardware")
    by_run = [flatten({key: run.manifest.get(key) for key in keys}) | {"code.diff": _diff(run)} for run in runs]
    names = {name: None for facts in by_run for name in facts}
    return {name: list(dict.fromkeys(str(facts.get(name, "-")) for facts in by_run)) for name in names}


def _diff(run: RunRecord) -> str:
    file = run.dir / "code.diff"
    size = file.stat().st_size if file.is_file() else 0
    return f"{size} bytes: the run's code is not its commit's" if size else "empty: the code is the commit's"


def lineage_layout(nodes: Sequence[LineageNode]) -> dict[str, Any]:
    """The lineage as a list with an arc from every node to those that need it, in pixels."""
    rows = {node.name: i for i, node in enumerate(nodes)}
    arcs, widest = [], 0
    for node in nodes:
        for need in node.needs:
            a, b = rows[need], rows[node.name]
            reach = ARC_PX + min(ARC_PX * abs(b - a), 6 * ARC_PX)
            widest = max(widest, reach)
            arcs.append((_row_centre(a), _row_centre(b), reach))
    paths = [f"M{widest},{a} C{widest - reach},{a} {widest - reach},{b} {widest},{b}" for a, b, reach in arcs]
    return {"nodes": nodes, "paths": paths, "width": widest + 8, "height": ROW_PX * len(nodes), "row": ROW_PX,
            "dots": [(widest, _row_centre(i), node.status) for i, node in enumerate(nodes)]}  # fmt: skip


def _row_centre(row: int) -> int:
    return row * ROW_PX + ROW_PX // 2
