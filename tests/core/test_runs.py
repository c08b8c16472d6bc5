"""Reading records back, whole or cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader

from r1.core import jsonl
from r1.core.errors import DATA, UserError
from r1.core.runs import check_output_dir, made_progress, read_run
from r1.core.yaml import ConfigLoader

ROWS = [{"step": 0, "text": "等等\u2028\x85\x0c"}, {"step": 1, "value": 0.1}, {"step": 2, "é": "\n"}]
WORDS = st.text(min_size=1, max_size=8)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


METRICS = [{"step": 1, "train/loss": 0.5}]
MANIFEST = {"status": "finished", "metrics": {"start": {}, "final": {}}}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "config.yaml").write_text("seed: 1\nstage: {lr: 1.0e-06, text: '${not: this}'}\n")
    jsonl.append_rows(tmp_path / "metrics.jsonl", METRICS)
    return tmp_path


def test_read_run_returns_the_record(record: Path) -> None:
    run = read_run(str(record))
    assert run.dir == record
    assert run.manifest == MANIFEST
    assert run.config["stage"]["lr"] == 1e-6
    assert run.metrics == METRICS


@settings(max_examples=40)
@given(st.dictionaries(WORDS, st.recursive(VALUES, lambda v: st.dictionaries(WORDS, v, max_size=3), max_leaves=5)))
def test_read_config_matches_omegaconf(content: dict) -> None:
    text = yaml.dump(content, Dumper=get_omega_conf_dumper(), allow_unicode=True)  # as OmegaConf.to_yaml
    assert yaml.load(text, ConfigLoader) == yaml.load(text, get_yaml_loader())


@pytest.mark.parametrize("text", ["1e-6", "-2E+3", "2026-11-24", "1_0", "yes", "1e", "0x1f", ".5", "null", ""])
def test_read_config_of_hand_edited_yaml_matches_omegaconf(record: Path, text: str) -> None:
    (record / "config.yaml").write_text(f"key: {text}\n")
    assert read_run(str(record)).config == OmegaConf.load(record / "config.yaml")


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_read_config_rejects_broken_yaml(record: Path, text: str) -> None:
    (record / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        read_run(str(record))


def test_read_run_without_metrics_has_no_rows(record: Path) -> None:
    (record / "metrics.jsonl").unlink()
    assert read_run(str(record)).metrics == []


def test_read_run_rejects_a_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json") as caught:
        read_run(str(tmp_path))
    assert caught.value.code == DATA


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.text(), VALUES)))
def test_read_rows_returns_appended_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    file = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    jsonl.append_rows(file, rows[:1])
    jsonl.append_rows(file, rows[1:], sync=True)
    assert jsonl.read_rows(file) == rows
    assert file.read_bytes().count(b"\n") == len(rows)


def test_repair_and_read_recovers_from_any_cut(tmp_path: Path) -> None:
    complete = "".join(jsonl.row_to_line(row) for row in ROWS).encode()
    file = tmp_path / "rows.jsonl"
    for cut in range(len(complete) + 1):
        file.write_bytes(complete[:cut])
        rows = ROWS[: complete[:cut].count(b"\n")]
        assert jsonl.read_rows(file) == rows
        assert jsonl.repair_and_read(file) == rows
        jsonl.append_rows(file, ROWS[:1])
        assert jsonl.read_rows(file) == [*rows, ROWS[0]]


def test_repair_and_read_of_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert jsonl.repair_and_read(tmp_path / "none.jsonl") == []


def test_read_rows_raises_on_a_damaged_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl is damaged"):
        jsonl.read_rows(tmp_path / "rows.jsonl")


# ---- whose folder it is ----

RECORD = '{"schema": 1, "status": "failed", "overrides": []}'


@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": ""},
        {".hidden": ""},
        {"metrics.jsonl": "{}"},
        {"manifest.json": '{"name": "a web app", "icons": []}'},
        {"manifest.json": ""},
        {"checkpoints/step_000001/state.ckpt": ""},
        {"output.log/x": ""},
        {"steps/sft/mine/notes.txt": ""},
        {"steps/notes/x": ""},
        {".lock": "", "config.yaml": ""},
    ],
)
def test_check_output_dir_with_files_of_the_user_raises(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(text)
    (tmp_path / "link").symlink_to("run")
    for folder in (tmp_path / "run", tmp_path / "link"):
        with pytest.raises(UserError, match="not a record of r1"):
            check_output_dir(folder, str(folder))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {".lock": ""},
        {".lock": "", ".runner": "", "output.log": "error"},
        {".lock": "", "manifest.json.tmp.123": "{"},
        {"manifest.json": RECORD, "notes.txt": "my own"},
        {"steps/sft/0123/manifest.json": RECORD, "steps/sft/0123.log": ""},
    ],
)
def test_check_output_dir_accepts_an_empty_folder_a_failed_start_and_a_record(
    tmp_path: Path, files: dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    check_output_dir(tmp_path, str(tmp_path))
    check_output_dir(tmp_path / "new", "new")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"manifest.json": RECORD}, False),
        ({"manifest.json": RECORD, "metrics.jsonl": '{"step": 0}\n', "traces/answers.jsonl": "{}"}, False),
        ({"manifest.json": RECORD, "metrics.jsonl": '{"step": 0}\n{"step": 1}\n'}, True),
        ({"manifest.json": RECORD, "metrics.jsonl": "damaged\n"}, True),
        ({"manifest.json": RECORD, "checkpoints/step_000001": ""}, True),
        ({"manifest.json": RECORD, "traces/samples.jsonl": ""}, True),
        ({"manifest.json": RECORD.replace("failed", "finished")}, True),
        ({"manifest.json": RECORD.replace("[]", '[], "steps": []')}, True),
    ],
)
def test_made_progress_is_false_for_a_run_without_a_step(tmp_path: Path, files: dict[str, str], expected: bool) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert made_progress(tmp_path) is expected
