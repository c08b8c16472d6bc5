"""The outcomes of the claims as a Markdown table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from examples.claims.effect import Measured, Runs
from examples.claims.findings import Finding, Record
from r1.core.console import format_duration
from r1.core.statistics import Estimate


def estimate_text(value: Estimate | None) -> str:
    """``0.905 (0.882 to 0.923)``."""
    return f"{value.text} ({value.interval or 'one seed'})" if value else "not measured"


def effect_text(one: Measured) -> str:
    """An effect with its estimate; of a comparison, both sides with their intervals."""
    sides = [estimate_text(side) for side in one.sides] if len(one.sides) > 1 and one.value else []
    return f"{one.effect.what}: {estimate_text(one.value)}" + (f"; {' against '.join(sides)}" if sides else "")


def claimed_bound(one: Measured) -> str:
    """The bound that a claim sets for an effect."""
    effect = one.effect
    if effect.above is not None:
        return f"above {effect.above:g}"
    return f"below {effect.below:g}" if effect.below is not None else "reported"


def stamp(manifest: Record, runs: Runs) -> str:
    """Date, commit, seeds and compute of the runs."""
    git, seeds = manifest["git"], list(dict.fromkeys(step["seed"] for step in manifest["steps"]))
    commit = (git["commit"] or "unknown")[:12] + (" with uncommitted changes" if git["dirty"] else "")
    took = [run.manifest["wall_s"] for by_seed in runs.values() for run in by_seed.values()]
    return (
        f"Made on {manifest['ended'][:10]} at commit {commit} in {format_duration(manifest['wall_s'])} min: "
        f"{len(took)} runs, together {format_duration(sum(took))} min, with the seeds {', '.join(map(str, seeds))}. "
        "Means over seeds with their 95 % intervals (Student's t)."
    )


def markdown(findings: Sequence[Finding], command: str, stamped: str) -> str:
    rows = []
    for finding in findings:
        effects = "<br>".join(map(effect_text, finding.measured))
        cells = (str(finding.number), finding.claim.statement, finding.claim.paper, effects, finding.outcome)
        rows.append(f"| {' | '.join(cells)} |")
    head = ["| # | claim | in the paper | here | verdict |", "|---|---|---|---|---|"]
    return "\n".join([f"    {command}", "", stamped, "", *head, *rows]) + "\n"


def as_json(findings: Sequence[Finding], manifest: Record) -> dict[str, Any]:
    """The content of claims.json."""
    return {
        "command": manifest["command"],
        "commit": manifest["git"]["commit"],
        "dirty": manifest["git"]["dirty"],
        "date": manifest["ended"],
        "wall_s": manifest["wall_s"],
        "claims": [_plain(finding) for finding in findings],
    }


def _plain(finding: Finding) -> dict[str, Any]:
    claim = finding.claim
    return {
        "number": finding.number,
        "claim": claim.statement,
        "paper": claim.paper,
        "about": claim.criterion,
        "verdict": finding.outcome,
        "missing": finding.missing,
        "effects": [
            {
                "what": one.effect.what,
                "above": one.effect.above,
                "below": one.effect.below,
                "verdict": one.outcome if one.effect.decides else None,
                "value": asdict(one.value) if one.value else None,
                "compared": [asdict(side) if side else None for side in one.sides],
            }
            for one in finding.measured
        ],
        "commands": finding.commands,
    }
