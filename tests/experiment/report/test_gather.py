"""What is found under the paths that a user gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from r1.core.errors import UserError
from r1.experiment.report.gather import LineageNode, gather, topological_order

MakeRecord = Callable[..., Path]


def test_gather_folder_returns_all_runs_below(record: MakeRecord, tmp_path: Path) -> None:
    folders = [record("sweep/b"), record("sweep/a"), record("sweep/deep/c")]
    (folders[0] / "model").mkdir()
    (folders[0] / "model" / "manifest.json").write_text("{}")  # what lies inside a record is no record
    found = gather([str(tmp_path / "sweep"), str(folders[0])])
    assert sorted(run.dir.name for run in found.runs) == ["a", "b", "c"]
    assert found.unreadable == []
    assert found.nodes == []


def test_gather_lists_unreadable_records(record: MakeRecord, tmp_path: Path) -> None:
    record("good")
    (record("cut") / "manifest.json").write_text('{"status": ')
    (record("strange") / "manifest.json").write_text("[1]")
    (record("bare") / "config.yaml").unlink()
    (record("torn") / "metrics.jsonl").write_text('{"a"\n{}\n')
    found = gather([str(tmp_path)])
    assert [run.dir.name for run in found.runs] == ["good"]
    assert len(found.unreadable) == 4
    with pytest.raises(UserError, match="no run here can be read"):
        gather([str(tmp_path / "torn")])


def test_gather_without_runs_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        gather([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="no run here"):
        gather([str(tmp_path)])


def test_gather_pipeline_returns_steps_as_nodes(record: MakeRecord, tmp_path: Path) -> None:
    run = record("pipe/steps/rl")
    gone = str(tmp_path / "removed")
    figures = {"start": {}, "final": {"val/pass@1": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 8}}}
    steps = [
        {
            "name": "rl",
            "seed": 1,
            "status": "finished",
            "needs": ["cold"],
            "path": str(run),
            "wall_s": 3.0,
            "metrics": {},
        },
        {
            "name": "cold",
            "seed": None,
            "status": "cached",
            "needs": [],
            "path": gone,
            "wall_s": 0.0,
            "metrics": figures,
        },
        {"name": "later", "seed": 1, "status": "waiting", "needs": [], "path": gone, "wall_s": 0.0, "metrics": None},
    ]
    (tmp_path / "pipe" / "manifest.json").write_text(json.dumps({"steps": steps}))
    found = gather([str(tmp_path / "pipe")])
    assert found.nodes == [
        LineageNode("cold", "cached", [], figures["final"]),
        LineageNode("later[1]", "waiting", [], {}),
        LineageNode("rl[1]", "finished", ["cold"], {}, 3.0),
    ]
    assert [r.dir for r in found.runs] == [run]
    assert found.names == {run: "rl[1]"}


def test_lineage_ends_at_missing_records(record: MakeRecord, tmp_path: Path) -> None:
    first = record("x/first", parents=[{"path": str(tmp_path / "x/gone"), "fingerprint": "f"}])
    second = record("x/second", parents=[{"path": str(first), "fingerprint": "first"}])
    found = gather([str(second)])
    assert [(n.name, n.status, n.needs) for n in found.nodes] == [
        ("x/gone", "not here any more", []),
        ("x/first", "finished", ["x/gone"]),
        ("x/second", "finished", ["x/first"]),
    ]


def test_topological_order_of_a_cycle_terminates() -> None:
    nodes = {name: LineageNode(name, "", [need], {}) for name, need in (("a", "b"), ("b", "a"), ("c", "a"))}
    assert [node.name for node in topological_order(nodes)] == ["a", "b", "c"]
