"""Records that f89b469 wrote, before options, targets and metrics were renamed: every command still reads them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from r1.compare import metric_rows, sections
from r1.config.build import build
from r1.config.check.config import check_schema
from r1.core.errors import UserError
from r1.core.provenance import differences
from r1.core.runs import RunRecord, read_run
from r1.report import report
from r1.reproduce import compare_metrics, reproduce
from r1.sample import eval_config
from r1.train.record import Record

RECORDS = Path(__file__).parent / "old_records"


@pytest.fixture(params=["grpo", "reject"])
def run(request: pytest.FixtureRequest) -> RunRecord:
    return read_run(str(RECORDS / request.param))


def resumed(folder: Path, **changes: Any) -> Record:
    """The record of a run that continues the old one in a copy of its folder, with some keys changed."""
    shutil.copytree(RECORDS / "grpo", folder)
    old = read_run(str(folder))
    config = old.config | {"output_dir": str(folder), "resume": "auto"} | changes
    return Record(folder, config, [], "r1.run", old.manifest["data"], old.manifest["parents"], resume=True)


def test_an_old_record_is_read_under_the_new_names() -> None:
    run = read_run(str(RECORDS / "reject"))
    assert run.config["stage"]["_target_"] == "r1.stage.rejection_sampling.RejectionSampling"
    assert run.metrics[1]["rejection/selected"] == 10.0
    assert run.manifest["metrics"]["final"]["rejection/pass_rate"]["value"] == pytest.approx(0.4375)
    assert run.manifest["overrides"][0] == "stage=rejection_sampling"
    assert "reject/" not in str((run.metrics, run.manifest["metrics"]))


def test_the_config_of_an_old_record_passes_the_check(run: RunRecord) -> None:
    check_schema(run.config)


def test_compare_old_records() -> None:
    runs = [read_run(str(RECORDS / name)) for name in ("reject", "grpo")]
    changed = {key: (old, new) for key, old, new in sections(*runs)["config"]}
    assert changed["stage._target_"] == ("r1.stage.rejection_sampling.RejectionSampling", "r1.stage.grpo.Grpo")
    assert "val._target_" not in changed
    assert "rejection/pass_rate" in [name for name, *_ in metric_rows(*runs)]


def test_report_of_old_records(tmp_path: Path) -> None:
    page = report([str(RECORDS / "reject"), str(RECORDS / "grpo")], tmp_path / "report.html").read_text()
    assert "rejection/pass_rate" in page
    assert "reject/pass_rate" not in page


def test_sample_takes_the_parts_of_an_old_record(run: RunRecord) -> None:
    config = eval_config(str(run.dir))
    assert config["rollout"]["temperature"] == run.config["rollout"]["temperature"]
    check_schema(config)


def test_reproduce_runs_an_old_record_again(run: RunRecord, tmp_path: Path) -> None:
    reproduce(run, str(tmp_path / "again"))  # another CPU may compute other last bits
    again = read_run(str(tmp_path / "again"))
    assert [list(row) for row in again.metrics] == [list(row) for row in run.metrics]
    assert not [line for line in compare_metrics(run, again) if "None" in line]
    assert differences(run.config | {"output_dir": again.config["output_dir"]}, again.config) == []


JSONL = """
  _target_: r1.data.jsonl.jsonl
  path: PATH
  terms: null
  weight: null
  val_path: null
  num_val: 4
  prompt_column: q
  answer_column: gold
  completion_column: text
  on_bad_row: error
  min_pass_rate: null
  max_pass_rate: null
  verifier: {_target_: r1.data.verifier.exact.exact, _partial_: true}
  template: {_target_: r1.data.template.chat.Chat, system: null, prefill: ''}
"""


def test_record_of_data_jsonl_is_built_by_the_one_reader(tmp_path: Path) -> None:
    shutil.copytree(RECORDS / "grpo", tmp_path / "run")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"q": "{n}?", "gold": {n}, "text": "It is {n}."}}\n' for n in range(12)))
    config = tmp_path / "run" / "config.yaml"
    node = JSONL.replace("PATH", str(file))
    config.write_text(re.sub(r"^data:\n(  .*\n)+", f"data:{node}", config.read_text(), flags=re.MULTILINE))
    run = read_run(str(tmp_path / "run"))
    check_schema(run.config)
    data = build(run.config).source
    assert (len(data.train), len(data.val)) == (8, 4)
    assert {row["prompt"]: (row["answer"], row["completion"]) for row in data.train + data.val} == {
        f"{n}?": (str(n), f"It is {n}.") for n in range(12)
    }
    with pytest.raises(UserError, match="this folder holds a run with a different config") as caught:
        Record(run.dir, run.config, [], "r1.run", data.digest(), [], resume=True)
    assert "data: other rows than before, or an earlier version" in str(caught.value)
    assert "take another output_dir" in caught.value.hint


def test_an_old_run_can_be_resumed(tmp_path: Path) -> None:
    with resumed(tmp_path / "run") as record:
        assert record.start["val/pass@1"].n == 4


def test_resume_of_an_old_run_with_another_config_says_what_changed(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        resumed(tmp_path / "run", seed=7)
    assert "seed: 0 -> 7" in str(caught.value)
    assert "_target_" not in str(caught.value)
