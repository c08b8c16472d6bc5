"""The page of the claims, written at the end of experiment=claims, also when some steps have failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from examples.claims.claims import Curves, Dots
from examples.claims.effect import Runs, measure_reading
from examples.claims.findings import Finding, counts, find_all, finished_runs, read_manifest
from examples.claims.summary import as_json, claimed_bound, effect_text, estimate_text, markdown, stamp
from r1.core.files import write_atomic
from r1.core.runs import RunRecord
from r1.experiment.report.curves import by_metric, series
from r1.experiment.report.html import html
from r1.experiment.report.samples import read_samples

POINTS = 300  # of one curve
SHOWN = 3  # questions with their completions, of each run


def page(folder: Path) -> Path:
    """Write ``claims.html``, ``claims.json`` and ``claims.md`` into a pipeline's record; returns the first."""
    manifest = read_manifest(folder)
    runs = finished_runs(manifest)
    findings = find_all(manifest, runs)
    text = html(
        Path(__file__).parent,
        [drawing(finding, runs) for finding in findings],
        findings=findings,
        counts=counts(findings),
        stamp=(stamped := stamp(manifest, runs)),
        command=manifest["command"],
        completions={finding.number: completions(finding, runs) for finding in findings},
        text=estimate_text,
        ours=effect_text,
        bound=claimed_bound,
    )
    summary = json.dumps(as_json(findings, manifest), indent=2, ensure_ascii=False) + "\n"
    for name, content in (
        ("claims.json", summary),
        ("claims.md", markdown(findings, manifest["command"], stamped)),
        ("claims.html", text),
    ):
        write_atomic(folder / name, content)
    return folder / "claims.html"


def drawing(finding: Finding, runs: Runs) -> dict[str, Any]:
    """What the page's script draws for a claim: ``{names, series, share}`` or ``{rows, label}``."""
    plot = finding.claim.plot
    return _curves(plot, runs) if isinstance(plot, Curves) else _dots(plot, runs)


def _curves(plot: Curves, runs: Runs) -> dict[str, Any]:
    lines = [
        {"v": v, **series(by_metric(list(runs[step].values()))[metric], POINTS), "ci": []}
        for v, (step, metric) in enumerate(plot.lines.values())
        if step in runs
    ]
    share = all(value <= 1 for line in lines for value in line["y"])
    return {"title": plot.title, "names": list(plot.lines), "series": lines, "share": share}


def _dots(plot: Dots, runs: Runs) -> dict[str, Any]:
    values = [(i, name, measure_reading(of, runs)) for i, (name, of) in enumerate(plot.dots.items())]
    rows = [{"i": i, "name": name, "value": e.value, "low": e.low, "high": e.high} for i, name, e in values if e]
    return {"title": plot.title, "rows": rows}


def completions(finding: Finding, runs: Runs) -> dict[str, list[dict[str, Any]]]:
    """step -> a few questions with the first completion to each, before and after, of the first seed's run."""
    steps = [step for step in finding.claim.shown if step in runs]
    return {step: _pairs(next(iter(runs[step].values()))) for step in steps}


def _pairs(run: RunRecord) -> list[dict[str, Any]]:
    rows = [row for row in read_samples(run) if row["split"] == "val" and "completion" in row]
    ends = sorted({row["step"] for row in rows})[:: max(1, len({row["step"] for row in rows}) - 1)]
    firsts = [{row["prompt"]: row for row in reversed(rows) if row["step"] == end} for end in ends]
    prompts = sorted(set.intersection(*map(set, firsts))) if firsts else []
    chosen = prompts[:: max(1, len(prompts) // SHOWN)][:SHOWN]
    return [{"prompt": prompt, "rows": [first[prompt] for first in firsts]} for prompt in chosen]
