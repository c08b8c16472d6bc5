"""The table of benchmarks: paired differences by hand, other questions, missing files, the page and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from records import HOSTILE, Tags, make_record

from r1.core.errors import UserError
from r1.core.runs import read_run
from r1.core.statistics import mean
from r1.experiment.benchmarks.page import BenchmarksPage
from r1.experiment.benchmarks.results import accuracies, benchmark_runs, results
from r1.experiment.pipeline.run import build_page


def evaluation(top: Path, name: str, verdicts: Sequence[Sequence[bool | None]], first: int = 0) -> Path:
    """The record of an evaluation: the verdicts of each question, and a wrong greedy completion of each."""
    samples = [
        {"index": i, "split": "val", "step": 0, "prompt": f"question {first + i}", "correct": verdict} | marked
        for i, group in enumerate(verdicts)
        for verdict, marked in [*((v, dict[str, Any]()) for v in group), (False, {"greedy": True})]
    ]
    known = [group for group in verdicts if None not in group]
    share = sum(map(sum, known)) / sum(map(len, known))  # type: ignore[arg-type]
    one = {"value": share, "low": share - 0.1, "high": share + 0.1, "n": sum(map(len, known))}
    names = ("val/pass@1", "val/pass@2", "val/maj@2", "val/completion_length", "val/truncated", "val/level=1/pass@1")
    final = {metric: dict(one) for metric in names}
    record = make_record(top, name, samples=samples, metrics={"start": final, "final": final})
    config = OmegaConf.load(record / "config.yaml")
    OmegaConf.update(config, "val.num_samples", len(verdicts[0]))
    OmegaConf.update(config, "model.path", name)
    OmegaConf.save(config, record / "config.yaml")
    return record


def pipeline(folder: Path, **steps: Path) -> Path:
    folder.mkdir()
    entries = [{"name": name, "seed": None, "path": str(path), "status": "cached"} for name, path in steps.items()]
    rest = {"needs": [], "overrides": [], "fingerprint": "", "wall_s": 0.0, "error": None, "metrics": None}
    (folder / "manifest.json").write_text(json.dumps({"status": "finished", "steps": [e | rest for e in entries]}))
    return folder


A = [[True, True], [True, False], [False, False], [None, None]]
B = [[True, False], [False, False], [False, True], [None, None]]


def test_difference_is_the_mean_over_questions(tmp_path: Path) -> None:
    """1 - 1/2, 1/2 - 0, 0 - 1/2; the fourth question has no gold answer."""
    runs = [{"set": read_run(str(evaluation(tmp_path, name, verdicts)))} for name, verdicts in (("a", A), ("b", B))]
    (line,) = results(*runs)
    assert line.difference == mean([0.5, 0.5, -0.5], 1)
    assert line.difference.value == pytest.approx(1 / 6)
    assert line.baseline is not None
    assert (line.pass_at_1.value, line.baseline.value) == (pytest.approx(3 / 6), pytest.approx(2 / 6))
    assert (line.questions, line.k) == (3, 2)
    assert [(part.name, part.questions) for part in line.parts] == [("level=1", 3)]


def test_other_questions_have_no_difference(tmp_path: Path) -> None:
    run, other = (read_run(str(evaluation(tmp_path, f"run{first}", A, first))) for first in (0, 9))
    assert results({"set": run}, {"set": other})[0].difference is None
    assert results({"set": run}, {"another": other})[0].baseline is None
    (run.dir / "samples.jsonl").unlink()
    assert accuracies(run) == {}
    assert results({"set": run}, {"set": run})[0].difference is None


def test_page_has_one_table_with_intervals_and_both_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, old = (evaluation(tmp_path, name, verdicts) for name, verdicts in ((f"a{HOSTILE[:5]}", A), ("b", B)))
    baseline, folder = pipeline(tmp_path / "old", maths=old), pipeline(tmp_path / "new", maths=new, gone=new)
    text = BenchmarksPage(baseline=str(baseline))(folder).read_text()
    tags = [tag for tag, _ in Tags(text).tags]
    assert tags.count("table") == 1
    assert "script" not in tags
    printed = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    row = next(line for line in printed if line.startswith("maths "))
    assert row == (
        "maths 3 0.500 (0.400 to 0.600) 0.500 (0.400 to 0.600), k=2 0.333 (0.233 to 0.433) 0.167 (-0.487 to 0.820)"
    )
    assert "level=1 3 0.500 (0.400 to 0.600) 0.333 (0.233 to 0.433)" in printed
    for shown in ("0.500", "0.400 to 0.600", "0.167", "-0.487 to 0.820", "baseline: b"):
        assert shown in text
    alone = BenchmarksPage(baseline=None)(folder).read_text()
    assert "difference" not in alone


def test_baseline_that_is_no_pipeline_is_refused_before_any_step(tmp_path: Path, record: Callable[..., Path]) -> None:
    page = {"_target_": "r1.experiment.benchmarks.page.BenchmarksPage"}
    for folder in (tmp_path / "nothing", record("run")):
        with pytest.raises(UserError, match="not the record of a pipeline") as raised:
            build_page({"page": page | {"baseline": str(folder)}, "extensions": []})
        assert raised.value.key == "page.baseline"
    assert benchmark_runs(pipeline(tmp_path / "none")) == {}
