"""The shipped models are what the README says they are, and its tree has every option."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r1.config.build import build
from r1.core.paths import ASSETS, CONF
from r1.core.seeds import derive_seed
from r1.data.completion import parse

LIMIT_BYTES = 5_000_000


def test_assets_fit_into_the_package() -> None:
    assert sum(file.stat().st_size for file in ASSETS.rglob("*")) <= LIMIT_BYTES


def test_readme_names_every_option() -> None:
    text = (CONF.parent / "README.md").read_text()
    options = {file.stem for file in CONF.rglob("*.yaml") if "papers" not in file.parts} - {"_base", "config"}
    assert [name for name in sorted(options) if not re.search(rf"(?<!\w){name}(?!\w)", text)] == []


@pytest.mark.parametrize("model", ["tiny", "tiny_xs"])
def test_base_model_can_work_out_sums_but_seldom_does(config: Callable[..., Any], model: str) -> None:
    """Held-out pass@1 between 0.15 and 0.45; worked answers are mostly right, short ones mostly wrong."""
    experiment = build(config("stage=eval", f"model={model}"))
    stage = experiment.stage
    stage.configure_model()
    stage.engine.update(stage.policy, 0)
    rows = experiment.data.val[:64]
    groups = stage.sampler.sample(rows, [[derive_seed("assets", i, g) for g in range(8)] for i in range(len(rows))])
    right: dict[str, list[bool]] = defaultdict(list)
    for row, group in zip(rows, groups, strict=True):
        for text in (stage.sampler.text(rollout, row) for rollout in group):
            parsed = parse(text)
            form = "worked" if parsed.strict else "short" if parsed.answer else "other"
            right[form].append(experiment.data.correct(text, row))
    share = {form: sum(answers) / len(answers) for form, answers in right.items()}
    everything = [answer for answers in right.values() for answer in answers]
    assert 0.15 <= sum(everything) / len(everything) <= 0.45
    assert share["worked"] >= 0.75
    assert share["short"] <= 0.2


@pytest.mark.long
@pytest.mark.parametrize("command", [["stage=grpo", "reward=math"], ["stage=sft"], ["stage=distill"]])
def test_default_runs_reach_their_target(command: list[str], tmp_path: Path) -> None:
    """pass@1 of 0.85 in at most 5 minutes, and for GRPO a completion length of 1.5 times the base's."""
    subprocess.run([sys.executable, "-m", "r1.run", *command, f"output_dir={tmp_path}"], check=True, timeout=300)
    metrics = json.loads((tmp_path / "manifest.json").read_text())["metrics"]
    start, final = ({k: v["value"] for k, v in metrics[when].items()} for when in ("start", "final"))
    assert final["val/pass@1"] >= 0.85
    assert final["val/completion_length"] >= 1.5 * start["val/completion_length"]


@pytest.mark.long
def test_base_recipe_is_reproducible(tmp_path: Path) -> None:
    """Two processes take the same first steps of the recipe, bit for bit."""
    rows = []
    for name in ("a", "b"):
        words = ["experiment=tiny_base", "trainer.max_steps=5", "val.num_prompts=8", f"output_dir={tmp_path / name}"]
        subprocess.run([sys.executable, "-m", "r1.run", *words], check=True, timeout=300)
        rows.append((tmp_path / name / "metrics.jsonl").read_text())
    assert rows[0] == rows[1]
