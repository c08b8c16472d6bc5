"""The claims against the pipeline that is to show them, and the page of records that were never made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from records import HOSTILE, Tags, sample

from examples.claims.claims import CLAIMS, MIDDLE, Claim, Curves
from examples.claims.effect import MetricAt, StepsTo
from r1.core.metrics import meaning
from r1.core.paths import ROOT
from r1.experiment.pipeline.run import write_page

MakeRecord = Callable[..., Path]
PIPELINE: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "examples/claims/conf/experiment/claims.yaml"))
METRICS = ("val/pass@1", "val/maj@16", "val/language", "val/format", "val/completion_length", "val/thinking_length",
           "val/reward/tiny_open", "val/maths/pass@1", "train/frac_zero_std")  # fmt: skip


def metrics_of(claim: Claim) -> set[tuple[str, str]]:
    """(step, metric) of everything that a claim reads."""
    read = [reading for effect in claim.effects for reading in effect.readings]
    plot = claim.plot
    drawn = list(plot.lines.values()) if isinstance(plot, Curves) else [(d.step, d.metric) for d in plot.dots.values()]
    return {*((reading.step, reading.metric) for reading in read), *drawn}


def value(step: str, key: str) -> str:
    """An override of a step."""
    texts = [*PIPELINE["shared"], *PIPELINE["steps"][step]]
    return next(text.partition("=")[2] for text in reversed(texts) if text.startswith(f"{key}="))


def test_claims_each_have_a_deciding_effect() -> None:
    assert len(CLAIMS) == 12
    assert all(any(effect.decides for effect in claim.effects) for claim in CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.statement)
def test_claim_reads_only_metrics_that_its_steps_log(claim: Claim) -> None:
    assert set(claim.steps) <= set(PIPELINE["steps"])
    for step, metric in metrics_of(claim):
        assert metric in METRICS
        assert metric == "val/maths/pass@1" or meaning(metric)
        if "maj@" in metric:
            assert metric.partition("@")[2] in value(step, "val.ks").strip("[]").split(",")
        if metric.startswith("val/maths/"):
            assert any(text.startswith("+data@data.parts.maths=") for text in PIPELINE["steps"][step])
    readings = [reading for effect in claim.effects for reading in effect.readings]
    curves = [reading for reading in readings if isinstance(reading, StepsTo)]
    curves += [reading for reading in readings if isinstance(reading, MetricAt) and reading.when == MIDDLE]
    assert all(MIDDLE % int(value(reading.step, "val.every")) == 0 for reading in curves)


def test_pipeline_steps_are_all_used() -> None:
    wanted = {step for claim in CLAIMS for step in claim.steps}
    needed = set(re.findall(r"\$\{step:(\w+)\}", "\n".join(t for texts in PIPELINE["steps"].values() for t in texts)))
    assert set(PIPELINE["steps"]) == wanted | needed


def test_group_size_steps_have_equal_completions_per_step() -> None:
    steps = [step for step in PIPELINE["steps"] if step.startswith("groups_of_")]
    sizes = {
        step: (int(value(step, "stage.group_size")), int(value(step, "stage.examples_per_step"))) for step in steps
    }
    assert {step: group * prompts for step, (group, prompts) in sizes.items()} == dict.fromkeys(steps, 128)
    assert all(step == f"groups_of_{group}" for step, (group, _) in sizes.items())


@pytest.fixture
def pipeline(record: MakeRecord, tmp_path: Path) -> Callable[..., Path]:
    """``pipeline(rl="failed")``: a pipeline's record with two seeds; what is named has not finished."""

    def build_record(**statuses: str) -> Path:
        steps = [_step(record, name, seed, statuses) for seed in (10, 11) for name in PIPELINE["steps"]]
        manifest: dict[str, Any] = {"command": f"python -m r1.run {HOSTILE}", "steps": steps, "wall_s": 61.0}
        manifest |= {"git": {"commit": "abc", "dirty": True}, "ended": "2026-11-24T17:55:49+00:00"}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        write_page({"page": PIPELINE["page"], "extensions": PIPELINE["extensions"]}, tmp_path)
        return tmp_path / "claims.html"

    return build_record


def _step(record: MakeRecord, name: str, seed: int, statuses: dict[str, str]) -> dict[str, Any]:
    figures = {metric: {"value": 0.1, "low": 0.0, "high": 0.2, "n": 9} for metric in METRICS}
    after = {metric: figure | {"value": 0.6 + seed / 100} for metric, figure in figures.items()}
    folder = record(f"{name}/{seed}", seed=seed, metrics={"start": figures, "final": after},
                    samples=[sample(step, HOSTILE, prompt=HOSTILE) for step in (0, 20)])  # fmt: skip
    rows = [{"step": at, **dict.fromkeys(METRICS, at / 20)} for at in (0, 10, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = statuses.get(name, "finished")
    held = {"name": name, "seed": seed, "needs": [], "overrides": [HOSTILE], "path": str(folder), "status": status}
    return held | {"error": HOSTILE if status == "failed" else None}


def test_page_has_twelve_claims_and_loads_nothing(pipeline: Callable[..., Path]) -> None:
    file = pipeline()
    text = file.read_text()
    tags = Tags(text).tags
    assert sum(tag == "section" for tag, _ in tags) == 12
    assert "img" not in {tag for tag, _ in tags}
    assert text.count("&lt;/script&gt;&lt;img") > 12
    links = [a.get("href") or a.get("src") for _, a in tags if "href" in a or "src" in a]
    assert all(str(link).startswith(("#", "data:,")) for link in links)
    policy = next(a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")
    assert "url(" not in text.partition("</style>")[0]
    drawn = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert len(drawn) == 12
    assert drawn[0]["series"][0]["y"] == [0.0, 0.5, 1.0]


def test_summaries_have_outcomes_and_effects(pipeline: Callable[..., Path]) -> None:
    folder = pipeline().parent
    held = json.loads((folder / "claims.json").read_text())
    assert [claim["number"] for claim in held["claims"]] == list(range(1, 13))
    first = held["claims"][0]
    assert (first["verdict"], first["missing"]) == ("reproduced", [])
    assert first["effects"][0]["value"]["value"] == pytest.approx(7.05)  # 0.70 / 0.1 and 0.71 / 0.1
    assert held["claims"][11]["verdict"] == "undecided", "two groups that end alike"
    table = (folder / "claims.md").read_text()
    assert sum(fnmatchcase(line, "| *[0-9] | *") for line in table.splitlines()) == 12
    assert "commit abc with uncommitted changes" in table
    assert "the seeds 10, 11" in table


def test_failed_step_leaves_its_claims_undecided(pipeline: Callable[..., Path]) -> None:
    file = pipeline(zero="failed", rl="blocked")
    held = json.loads((file.parent / "claims.json").read_text())["claims"]
    assert held[0]["verdict"] == "undecided"
    assert held[0]["missing"] == [f"zero[{seed}]: failed, {HOSTILE}" for seed in (10, 11)]
    assert held[6]["missing"] == ["rl[10]: blocked", "rl[11]: blocked"]
    assert held[8]["missing"] == []
    assert "zero[10]: failed" in file.read_text()
