"""python -m r1.rescore: an evaluation's completions with other verdicts, and without a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r1 import rescore
from r1.core.runs import read_run
from r1.core.types import Config
from r1.reproduce import compare_metrics
from r1.run import execute

Cli = Callable[..., tuple[int, str, str]]
KNOBS = ["stage=eval", "val.num_prompts=6", "val.num_samples=4", "val.ks=[1,4]", "val.greedy=true", "data.num_val=8"]
KNOBS += ["trainer.accelerator=cpu", "threads=1", "extensions=[conftest]"]
LENIENT = "data.verifier._target_=conftest.near"


def near(answer: str, row: dict[str, Any]) -> bool:
    """Within 5 of the sum: the model is often wrong, and then close."""
    return answer.isdigit() and abs(int(answer) - int(row["answer"])) <= 5


@pytest.fixture(autouse=True)
def extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "__module__", "conftest")
    monkeypatch.setattr("conftest.near", near, raising=False)


@pytest.fixture(scope="module")
def evaluated(config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rescore") / "run"
    execute(config(*KNOBS, f"output_dir={folder}"), KNOBS)
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """``cli(run, "val.ks=[1]")``: exit code, stdout and stderr of ``python -m r1.rescore``."""

    def command(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["r1.rescore", *map(str, args)])
        try:
            rescore.main()
        except SystemExit as stop:
            return int(stop.code or 0), *capfd.readouterr()
        return 0, *capfd.readouterr()

    return command


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_rescored_record_is_that_of_an_evaluation_with_the_verifier(
    evaluated: Path, folder: Path, config: Callable[..., Config], cli: Cli
) -> None:
    """Its completions, metrics and fingerprint; the model's folder is not opened."""
    execute(config(*KNOBS, LENIENT, f"output_dir={folder}"), [])
    code, out, err = cli(evaluated, LENIENT, "--output-dir", folder.with_name("again"))
    assert (code, out) == (0, f"{folder.with_name('again')}\n")
    fresh, again = read_run(str(folder)), read_run(str(folder.with_name("again")))
    assert compare_metrics(fresh, again) == []
    assert (fresh.dir / "samples.jsonl").read_bytes() == (again.dir / "samples.jsonl").read_bytes()
    assert again.manifest["fingerprint"] == fresh.manifest["fingerprint"]
    pairs = zip(lines(evaluated), lines(again.dir), strict=True)
    changed = [now["correct"] for then, now in pairs if now["correct"] != then["correct"]]
    assert changed
    assert all(changed)  # a lenient verifier takes no right answer back
    assert f"{len(changed)} of 30 verdicts changed: {len(changed)} are now right, 0 now wrong" in err
    *_, row = (line.split() for line in err.splitlines() if line.startswith(" val/pass@1"))
    finals = [run.manifest["metrics"]["final"]["val/pass@1"]["value"] for run in (read_run(str(evaluated)), again)]
    assert [float(row[1]), float(row[5])] == pytest.approx(finals, abs=5e-4)


def test_other_ks_are_metrics_of_the_recorded_verdicts(evaluated: Path, cli: Cli) -> None:
    code, out, err = cli(evaluated, "val.ks=[1,2]")
    assert code == 0
    assert "0 of 30 verdicts changed\n" in err
    assert Path(out.strip()) == evaluated.with_name("run-rescored")
    final = read_run(out.strip()).manifest["metrics"]["final"]
    assert "val/pass@2" in final
    assert "val/pass@4" not in final
    assert final["val/pass@1"] == read_run(str(evaluated)).manifest["metrics"]["final"]["val/pass@1"]


def test_val_verifier_leaves_the_rewards_as_they_were(evaluated: Path, cli: Cli) -> None:
    code, out, _ = cli(evaluated, "+data/verifier@val.verifier=exact", "val.verifier._target_=conftest.near")
    assert code == 0
    before, after = lines(evaluated), lines(Path(out.strip()))
    assert [x.get("rewards") for x in after] == [x.get("rewards") for x in before]
    assert sum(x["correct"] for x in after) > sum(x["correct"] for x in before)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data/verifier=mth"], "did you mean `math`?"),
        (["data.verifier.tolerance=1"], "unknown key `data.verifier.tolerance`"),
        (["data/verifier=math", "data.verifier.rel_tol=x"], "wrong value for `data.verifier.rel_tol`"),
        (["rollout.temperature=0"], "does not apply here"),
        (["reward=math"], "does not apply here"),
        (["~data.verifier"], "does not apply here"),
        (["val.ks=[1,9]"], "pass@9 cannot be worked out"),
        (["data/verifier=countdown"], "the verifier cannot read these rows"),
        (["val.verifier.rel_tol=1"], "unknown key"),
        (["data.verifier"], "an override needs a value"),
    ],
)
def test_rescore_refuses_what_decides_no_verdict(evaluated: Path, overrides: list[str], message: str, cli: Cli) -> None:
    existing = set(evaluated.parent.iterdir())
    code, out, err = cli(evaluated, *overrides)
    assert code in (2, 3)
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert set(evaluated.parent.iterdir()) == existing


def test_rescore_needs_every_completion(evaluated: Path, record: Callable[..., Path], tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli(record("training"), "val.ks=[1]")
    assert code == 3
    assert "a part of the completions only" in err
    assert "python -m r1.run stage=eval model.path=" in err
    copy = shutil.copytree(evaluated, tmp_path / "copy")
    text = (copy / "samples.jsonl").read_text()
    (copy / "samples.jsonl").write_text(text.replace("true", "false", 1))
    code, _, err = cli(copy, "val.ks=[1]")
    assert code == 74
    assert f"{copy / 'samples.jsonl'} is damaged" in err
    (copy / "samples.jsonl").unlink()
    assert "is gone" in cli(copy, "val.ks=[1]")[2]


def test_private_questions_come_from_the_dataset(
    config: Callable[..., Config], folder: Path, tmp_path: Path, cli: Cli
) -> None:
    """Their record has a hash in place of each; without the file it cannot be rescored, and says so."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}+4=?", "answer": str(n + 4)}) + "\n" for n in (1, 2, 3)))
    data = ["data=dataset", f"data.path={file}", "data.keep_questions=false"]
    knobs = [knob for knob in KNOBS if not knob.startswith("data.")]
    execute(config(*knobs, *data, f"output_dir={folder}"), [])
    assert "+4=?" not in (folder / "samples.jsonl").read_text()
    code, out, _ = cli(folder, LENIENT)
    assert code == 0
    assert "+4=?" not in (Path(out.strip()) / "samples.jsonl").read_text()
    file.write_text('{"prompt": "7+4=?", "answer": "11"}\n' * 3)
    code, _, err = cli(folder, LENIENT)
    assert code == 3
    assert "the dataset does not have question " in err


def test_another_reader_is_the_lenient_metric_of_the_same_verdicts(evaluated: Path, folder: Path, cli: Cli) -> None:
    code, _, err = cli(evaluated, "data.reader=last_number", "--output-dir", folder)
    assert code == 0
    assert "0 of 30 verdicts changed" in err
    old, new = (read_run(str(run)).manifest["metrics"]["final"] for run in (evaluated, folder))
    assert {name: new[name] for name in old} == old
    assert new.keys() - old.keys() == {"val/lenient"}
    assert new["val/lenient"]["value"] >= new["val/pass@1"]["value"]
