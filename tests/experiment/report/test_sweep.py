"""From a sweep's folder to what is said of it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from records import HOSTILE, Tags, make_sweep, make_trial
from test_page import data_of

from r1.core.paths import CONF
from r1.experiment.report.gather import gather
from r1.experiment.report.sweep import analysis
from r1.experiment.report.sweep.analysis import Analysis, analyse
from r1.experiment.report.sweep.baseline import baseline_values
from r1.experiment.report.sweep.conclusions import conclusion, markdown, warnings
from r1.experiment.report.sweep.info import question
from r1.experiment.report.sweep.section import rerun_command
from r1.experiment.report.sweep.trials import make_trials, normalise
from r1.report import report

G = "stage.group_size"
NOISE = (0.0, 0.02, -0.01, 0.01, -0.02)


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Composing the default takes a moment; where it is not the point, it is taken as known."""
    monkeypatch.setattr(analysis, "baseline_values", lambda run, names: {G: 8} if names == [G] else None)


def analyse_folder(folder: Path) -> Analysis:
    held = gather([str(folder)])
    made = analyse(held.runs, held.folder)
    assert made
    return made


def sizes(folder: Path, scores: dict[int, float], seeds: int = 5, wobble: float = 0.004) -> Path:
    """A sweep over the group size: the same noise in every seed, and a little that is each run's own."""
    make_sweep(folder, G)
    for size, score in scores.items():
        for seed in range(seeds):
            own = wobble * ((3 * size + 2 * seed) % 5 - 2)
            measured = score + NOISE[seed] + own
            make_trial(folder / "runs", f"{size}_{seed}", {G: size}, seed=seed, score=measured)
    return folder


def test_conclusion_clear_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "baseline_values", baseline_values)
    made = analyse_folder(sizes(tmp_path / "sizes", {2: 0.5, 8: 0.6, 16: 0.8}))
    said = conclusion(made)
    assert said.startswith("stage.group_size=16 has the highest mean val/pass@1, 0.800 (")
    assert "ahead of all 2 other points (95 %, paired over 5 seeds, corrected for 2 comparisons)" in said
    assert "Against the default (stage.group_size=8, 0.600 (" in said
    assert "it is +0.200 (" in said
    assert said.endswith("more than noise.")
    told = warnings(made)
    assert [line[:25] for line in told] == ["The winner was picked amo", "The points have not used "]
    assert "from 64 to 512 sequences" in told[1]


def test_conclusion_winner_within_noise(tmp_path: Path) -> None:
    made = analyse_folder(sizes(tmp_path / "sizes", {2: 0.5, 8: 0.6, 16: 0.603}))
    assert "No clear winner" in conclusion(made)
    assert "1 of 2 others cannot be told apart from it: stage.group_size=8 (95 %" in conclusion(made)
    assert (
        warnings(made)[0]
        == "The winner lies within noise: 1 of the 2 other points cannot be told apart from it at 95 %."
    )


def test_conclusion_one_seed_per_point(tmp_path: Path) -> None:
    made = analyse_folder(sizes(tmp_path / "sizes", {2: 0.2, 4: 0.7, 8: 0.72}, seeds=1))
    assert "by the validations' own intervals" in conclusion(made)
    assert "stage.group_size=8 has the highest val/pass@1" in conclusion(made)
    assert conclusion(made).endswith("It is the default.")
    assert any("one seed per point" in line for line in warnings(made))
    assert [one.tied for one in made.comparisons] == [True, False]


def test_unfinished_runs_are_listed_and_in_no_mean(tmp_path: Path) -> None:
    folder = sizes(tmp_path / "sizes", {2: 0.5, 16: 0.6})
    make_trial(folder / "runs", "f", {G: 16}, seed=5, score=None, status="failed", error=f"E: {HOSTILE}")
    stopped = {"status": "interrupted", "error": "Interrupted: SIGTERM", "metrics": {"start": {}, "final": {}}}
    make_trial(folder / "runs", "s", {G: 2}, seed=5, score=0.99, **stopped)
    made = analyse_folder(folder)
    assert made.winner is not None
    assert made.winner.values == {G: 16}
    assert "is not among the points" in conclusion(made)
    assert "2 of 12 runs did not finish" in warnings(made)[-1]
    text = report([str(folder)], None).read_text()
    assert "<pre>python -m r1.run stage=grpo stage.group_size=16 seed=0</pre>" in text
    assert "1 stopped early, 1 failed" in text or "1 failed, 1 stopped early" in text
    assert "Interrupted: SIGTERM" in text
    assert "E: &lt;/script&gt;" in text
    assert "img" not in {tag for tag, _ in Tags(text).tags}
    dots = data_of(text)["sweep"]["responses"][0]["dots"]
    assert [dot["y"] for dot in dots if not dot["done"]] == [0.99]


def test_conclusion_without_finished_runs(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sizes", G)
    for size in (2, 4):
        make_trial(folder / "runs", f"{size}", {G: size}, score=None, status="failed", error="E: no")
    assert conclusion(analyse_folder(folder)) == "No run has finished with val/pass@1, so there is no best point."
    assert "E: no" in report([str(folder)], None).read_text()


def test_analyse_without_a_sweep_file_finds_the_parameters(tmp_path: Path) -> None:
    """Of a W&B agent, of -m: what was typed differs; what follows from it is no parameter."""
    for name, size, weight in (("a", 2, None), ("b", 4, None), ("c", 4, 0.5)):
        make_trial(tmp_path, name, {G: size, "reward.terms.format.weight": weight}, score=0.5)
    made = analyse_folder(tmp_path)
    assert made.names == [G, "reward.terms.format.weight"]
    assert made.info.method == "runs"
    assert made.trials[0].values == {G: 2, "reward.terms.format.weight": None}
    assert made.responses[1].levels[0].label == "null"


def test_analyse_equal_runs_is_no_sweep(tmp_path: Path) -> None:
    make_trial(tmp_path, "a", {G: 2}, seed=0)
    make_trial(tmp_path, "b", {G: 2}, seed=1)
    assert analyse(gather([str(tmp_path)]).runs, tmp_path) is None
    assert data_of(report([str(tmp_path)], None).read_text())["sweep"] is None


def test_analyse_sweep_over_pipelines(tmp_path: Path) -> None:
    """Each is one run, with its result and under its own seed; its steps stay where they are."""
    name = "steps.rl.stage.lr"
    folder = make_sweep(tmp_path / "pipes", name)
    step = {"name": "rl", "seed": None, "status": "finished", "needs": [], "path": "x", "wall_s": 1.0, "metrics": None}
    for number, lr in enumerate((0.1, 0.1, 0.2, 0.2)):
        place = make_trial(folder / "runs", f"{number}", {"x": 1}, score=0.1 * number)
        manifest = json.loads((place / "manifest.json").read_text())
        manifest |= {"steps": [step], "overrides": ["experiment=zero", f"{name}={lr}", f"seed={number % 2}"]}
        del manifest["seed"]
        (place / "manifest.json").write_text(json.dumps(manifest))
    make_trial(folder / "steps", "rl", {"x": 1})  # shared by several points
    made = analyse_folder(folder)
    assert [point.values for point in made.points] == [{name: 0.2}, {name: 0.1}]
    assert [trial.seed for trial in made.trials] == ["0", "1", "0", "1"]
    assert made.points[0].estimate is not None
    assert made.points[0].estimate.value == pytest.approx(0.25)
    assert "Sweep pipes" in report([str(folder)], None).read_text()


@pytest.mark.parametrize(
    ("value", "same"),
    [(1.0, 1), ("8", 8), ("1e-6", 1e-6), ("null", None), ("None", None), ("True", True), ("nan", "nan"), ([1], "[1]")],
)
def test_normalise_unifies_spellings(value: Any, same: Any) -> None:
    assert normalise(value) == same
    assert type(normalise(value)) is type(same)


def test_trial_compute(tmp_path: Path) -> None:
    """16 prompts of 4 completions, two steps, 10 tokens each."""
    folder = make_trial(tmp_path, "a", {G: 4})
    (trial,) = make_trials(gather([str(folder)]).runs, [G], "val/pass@1")
    used = trial.compute
    assert (used.per_step, used.sequences, used.tokens, used.wall_s) == (64, 128, 1280, 12.5)


def test_rerun_command_leaves_paths_out(tmp_path: Path) -> None:
    typed = [f"{G}=4", "output_dir=x", "resume=auto"]
    (trial,) = make_trials(gather([str(make_trial(tmp_path, "a", {G: 4}, overrides=typed))]).runs, [G], "val/pass@1")
    assert rerun_command(trial) == f"python -m r1.run {G}=4"


def test_baseline_values_come_from_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", "hidden")
    typed = ["stage=grpo", f"{G}=4", "stage.lr=1", "reward=r1_zero", "seed=3", "output_dir=x", "name=${oc.env:PLANTED}"]
    run = gather([str(make_trial(tmp_path, "a", {G: 4}, overrides=typed))]).runs[0]
    names = [G, "stage.lr", "reward", "name"]
    assert baseline_values(run, names) == {G: 8, "stage.lr": 3e-4, "reward": "math", "name": None}
    assert baseline_values(run, [G, "stage.unknown"]) is None
    run.manifest["overrides"] = ["stage.nothing=1"]
    assert baseline_values(run, [G]) is None


def test_baseline_values_of_a_pipeline_step(tmp_path: Path) -> None:
    run = gather([str(make_trial(tmp_path, "a", {G: 4}))]).runs[0]
    run.manifest["overrides"] = ["experiment=r1_zero", "steps.rl.stage.lr=1", "seed=1"]
    assert baseline_values(run, ["steps.rl.stage.lr"]) == {"steps.rl.stage.lr": 3e-4}
    run.manifest["overrides"] = ["seed=1"]
    assert baseline_values(run, ["steps.rl.stage.lr"]) is None


def test_question_is_the_leading_comment() -> None:
    assert question("# One,\n#   two?\nmethod: grid\n# three\n") == "One, two?"
    assert question("method: grid\n") == ""


def test_analyse_unreadable_sweep_file_falls_back_to_runs(tmp_path: Path) -> None:
    folder = sizes(tmp_path / "sizes", {2: 0.5, 8: 0.6}, seeds=1)
    (folder / "sweep.yaml").write_text("method: [")
    made = analyse_folder(folder)
    assert made.names == [G]
    assert warnings(made)[-1].startswith("sweep.yaml cannot be read (")


def test_sweep_verdict_script_writes_markdown_and_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("sweep_verdict", CONF.parent / "benchmarks" / "sweep_verdict.py")
    assert spec
    assert spec.loader
    spec.loader.exec_module(script := importlib.util.module_from_spec(spec))
    folder = make_sweep(tmp_path / "weights", "reward.terms.format.weight", "reward.terms.language.weight")
    for number in range(12):
        a, b, seed = (None, 0.1)[number % 2], (0.1, 0.3, 1.0)[number // 2 % 3], number // 6
        values = {"reward.terms.format.weight": a, "reward.terms.language.weight": b}
        make_trial(folder / "runs", f"{number}", values, seed=seed, score=0.1 * b + 0.01 * seed)
    out, figure = tmp_path / "sweeps" / "weights.md", tmp_path / "sweeps" / "weights.svg"
    monkeypatch.setattr("sys.argv", ["sweep_verdict", str(folder), "--out", str(out), "--figure", str(figure)])
    script.main()
    text = out.read_text()
    assert text == markdown(analyse_folder(folder), "weights", "weights.svg")
    assert text.startswith("# weights\n\nDoes it matter?\n\n    python -m r1.sweep sweeps/weights.yaml\n")
    assert "](weights.svg)" in text
    assert "**Conclusion.** No clear winner" in text
    assert "Commit abc." in text
    assert "Budget: sequences." in text
    rows = re.findall(r"^\| (null|0.1) \| ", text, re.MULTILINE)
    assert len(rows) == 6
    assert "<svg" in figure.read_text()
