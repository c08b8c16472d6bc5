"""python -m r1.compare: what two runs differ in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from r1 import compare
from r1.core.runs import RunRecord

FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
MANIFEST = {
    "status": "finished",
    "error": None,
    "code": "c",
    "git": {"commit": "abc", "dirty": False},
    "data": "d",
    "parents": [{"path": "/a/run", "fingerprint": "f"}],
    "packages": {"torch": "2.13"},
    "hardware": {"cores": 2},
    "metrics": {"start": {}, "final": {"val/pass@1": FIGURE, "val/length": FIGURE}},
}
CONFIG = {"seed": 0, "output_dir": "a", "resume": None, "stage": {"lr": 0.1, "loss": {"_target_": "x"}}}


@pytest.fixture
def run() -> Callable[..., RunRecord]:
    """``run(manifest={...}, config={...})``: a record with these keys changed."""

    def build_record(manifest: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> RunRecord:
        held = copy.deepcopy(MANIFEST) | (manifest or {})
        return RunRecord(Path("/run"), held, copy.deepcopy(CONFIG) | (config or {}), [])

    return build_record


@pytest.fixture
def shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[RunRecord, RunRecord], str]:
    """What the command prints for two records."""

    def printed(*runs: RunRecord) -> str:
        for name, run in zip("ab", runs, strict=True):
            (tmp_path / name).mkdir()
            (tmp_path / name / "manifest.json").write_text(json.dumps(run.manifest))
            OmegaConf.save(OmegaConf.create(run.config), tmp_path / name / "config.yaml")
        monkeypatch.setattr("sys.argv", ["r1.compare", str(tmp_path / "a"), str(tmp_path / "b")])
        compare.main()
        return capsys.readouterr().out

    return printed


def test_compare_equal_runs_has_no_differences(run: Callable[..., RunRecord]) -> None:
    a, b = run(), run(config={"output_dir": "b", "resume": "auto"})
    assert all(rows == [] for rows in compare.sections(a, b).values())
    assert [row[-1] for row in compare.metric_rows(a, b)] == ["equal", "equal"]


@pytest.mark.parametrize(
    ("section", "changed", "expected"),
    [
        ("config", {"config": {"seed": 1}}, [("seed", 0, 1)]),
        ("config", {"config": {"stage": {"lr": 0.2, "loss": {"_target_": "x"}}}}, [("stage.lr", 0.1, 0.2)]),
        ("config", {"config": {"new": None}}, [("new", "-", None)]),
        ("code", {"manifest": {"git": {"commit": "abc", "dirty": True}}}, [("git.dirty", False, True)]),
        ("data", {"manifest": {"data": "e"}}, [("data", "d", "e")]),
        ("data", {"manifest": {"parents": []}}, [("parents", MANIFEST["parents"], [])]),
        ("environment", {"manifest": {"packages": {}}}, [("packages.torch", "2.13", "-")]),
        (
            "status",
            {"manifest": {"status": "failed", "error": "E"}},
            [("error", None, "E"), ("status", "finished", "failed")],
        ),
    ],
)
def test_sections_sort_differences_by_kind(
    run: Callable[..., RunRecord], section: str, changed: dict[str, Any], expected: list[tuple[str, Any, Any]]
) -> None:
    sections = compare.sections(run(), run(**changed))
    assert sections.pop(section) == expected
    assert all(rows == [] for rows in sections.values())


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (0.7, 0.8, 0.9, "+0.300  intervals apart"),
        (0.5, 0.6, 0.7, "+0.100"),
        (0.1, 0.2, 0.3, "-0.300  intervals apart"),
        (0.6, 0.7, 0.8, "+0.200"),  # they touch
    ],
)
def test_metric_rows_mark_disjoint_intervals(
    run: Callable[..., RunRecord], low: float, value: float, high: float, verdict: str
) -> None:
    figure = {"value": value, "low": low, "high": high, "n": 100}
    b = run(manifest={"metrics": {"final": {"val/pass@1": figure, "val/only": FIGURE}}})
    rows = {name: rest for name, *rest in compare.metric_rows(run(), b)}
    assert rows["val/pass@1"] == ["0.500 (0.400 to 0.600)", f"{value:.3f} ({low:.3f} to {high:.3f})", verdict]
    assert rows["val/length"] == ["0.500 (0.400 to 0.600)", "-", "only in one"]
    assert rows["val/only"] == ["-", "0.500 (0.400 to 0.600)", "only in one"]


def test_compare_prints_sections(run: Callable[..., RunRecord], shown: Callable[[RunRecord, RunRecord], str]) -> None:
    text = shown(run(), run(config={"seed": 7}))
    assert "code: the same" in text
    assert any(line.split() == ["seed", "0", "7"] for line in text.splitlines())
    assert "equal" in text


def test_compare_prints_values_unabridged(
    run: Callable[..., RunRecord], shown: Callable[[RunRecord, RunRecord], str]
) -> None:
    texts = ["[/b] [red]:smile: " + "a" * 150 + end for end in ("left", "right")]
    text = shown(*(run(config={"system": value}) for value in texts))
    assert "[/b] [red]:smile:" in text
    squeezed = "".join(text.split())
    assert "left" in squeezed
    assert "right" in squeezed
    assert "…" not in text


def test_compare_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["r1.compare", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        compare.main()
    assert stop.value.code == 3
    assert "not a run" in capsys.readouterr().err
