"""The page as a file: complete, closed to the network, small, and nothing from a record is markup."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from records import Tags, figure, hostile

from r1.core import jsonl
from r1.core.errors import UserError
from r1.core.metrics import meaning
from r1.experiment.report.html import HERE
from r1.experiment.report.page import MAX_BYTES
from r1.report import main, report
from r1.run import execute

MakeRecord = Callable[..., Path]


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_report_escapes_text_of_records(record: MakeRecord) -> None:
    text = report([str(hostile(record))], None).read_text()
    tags = Tags(text).tags
    assert "img" not in {tag for tag, _ in tags}
    assert [attrs for tag, attrs in tags if tag == "script"] == [{"type": "application/json", "id": "data"}, *[{}] * 4]
    assert data_of(text)["samples"][0]["completion"].count("<img") == 2
    assert not any(name.startswith("on") for _, attrs in tags for name in attrs)


def test_page_of_a_run_that_only_got_sharper_says_so_once(record: MakeRecord) -> None:
    ends = {"start": (0.2, 0.9), "final": (0.6, 0.7)}
    metrics = {when: {"val/pass@1": figure(one), "val/pass@8": figure(eight)} for when, (one, eight) in ends.items()}
    page = report([str(record("run", metrics=metrics))], None).read_text()
    assert (
        page.count("pass@1 rose from 0.200 to 0.600, but pass@8 fell from 0.900 to 0.700: sharper, not broader.") == 1
    )


def test_page_makes_no_network_requests(record: MakeRecord) -> None:
    text = report([str(record("a"))], None).read_text()
    links = [a.get("href") or a.get("src") for _, a in Tags(text).tags if "href" in a or "src" in a]
    assert all(link.startswith(("#", "data:,")) for link in links)
    assert "url(" not in (HERE / "page.css").read_text()
    assert "@import" not in (HERE / "page.css").read_text()
    policy = next(a["content"] for tag, a in Tags(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert policy.count("'sha256-") == 4


def test_page_of_hundreds_of_runs_stays_small(record: MakeRecord, tmp_path: Path) -> None:
    many = [{"split": "val", "step": s, "prompt": "1+2=?", "completion": "等" * 900, "rewards": {}} for s in range(150)]
    for i in range(300):
        record(f"sweep/{i}", group_size=i // 2, seed=i % 2, steps=40, samples=many if i < 40 else ())
    text = report([str(tmp_path / "sweep")], None).read_text()
    assert len(text.encode()) < MAX_BYTES
    assert "300 runs, 150 variants" in text
    assert "10 of 150 variants are drawn" in text


@pytest.mark.parametrize(
    "broken", [{"status": "failed", "error": "E: no", "metrics": {"start": {}, "final": {}}}, {"git": None}]
)
def test_report_of_incomplete_records(record: MakeRecord, broken: dict) -> None:
    folder = record("a", **broken)
    for name in ("metrics.jsonl", "samples.jsonl"):
        (folder / name).unlink()
    text = report([str(folder)], None).read_text()
    assert "python -m r1.run seed=0" in text
    assert ("E: no" in text) == ("error" in broken)


def test_report_of_a_pipeline_without_runs(tmp_path: Path) -> None:
    step = {"name": "cold <start>", "seed": None, "status": "waiting", "needs": [], "path": "x", "wall_s": 0.0}
    (tmp_path / "manifest.json").write_text(json.dumps({"steps": [step | {"metrics": None}]}))
    text = report([str(tmp_path)], None).read_text()
    assert "cold &lt;start&gt;" in text
    assert "waiting" in text


def test_vendored_libraries_are_the_published_files() -> None:
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (HERE / "vendor").glob("*.js")}
    assert found == {
        "d3.min.js": "f2094bbf6141b359722c4fe454eb6c4b0f0e42cc10cc7af921fc158fceb86539",  # npm d3 7.9.0
        "plot.umd.min.js": "4358086467740777dd788d6b27a95cebdbaefdd50c730a3060117073bd7134cb",  # npm Plot 0.6.17
    }


def test_report_command_line(
    record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, file = record("a"), record("b", group_size=2), tmp_path / "page.html"
    monkeypatch.setattr("sys.argv", ["r1.report", str(a), str(b), "--output", str(file)])
    main()
    assert capsys.readouterr().out == f"{file}\n"
    assert "stage.group_size=2" in file.read_text()
    monkeypatch.setattr("sys.argv", ["r1.report", str(a), str(b)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--output" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"page\.html: No such file or directory"):
        report([str(a)], tmp_path / "nowhere" / "page.html")


@pytest.mark.parametrize(("stage", "knobs"), [("grpo", ["stage.kl_coef=0.1"]), ("distill", ["stage.num_questions=16"])])
def test_every_logged_metric_is_registered_and_shown(
    small: Callable[..., dict[str, Any]], folder: Path, stage: str, knobs: list[str]
) -> None:
    execute(small(f"stage={stage}", "trainer.max_steps=1", f"output_dir={folder}", *knobs), [])
    names = {name for row in jsonl.read_rows(folder / "metrics.jsonl") for name in row} - {"step"}
    assert {name for name in names if not meaning(name)} == set()
    assert {"val/reflection", "val/thinking_length", "val/format"} <= names
    text = report([str(folder)], None).read_text()
    assert {chart["name"] for chart in data_of(text)["charts"]} == {n for n in names if not n.endswith("_weighted")}
