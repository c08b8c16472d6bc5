"""optuna-dashboard opens a sweep's study: its page, the study and the points, over loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from swept import study, wait_until


@pytest.mark.long
@pytest.mark.parametrize("place", [None, "journal.log"])
def test_dashboard_shows_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    opened = study(tmp_path, place=place, parameters={"x": {"values": ["a", 2, [3, 4]]}, "k": {"value": 1}})
    for value in (0.25, 0.5):
        taken = opened.take_point()
        assert taken
        opened.report_history(taken[0], {0: 0.1, 5: value})
        opened.finish_point(taken[0], value)
        taken[1].close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tool = Path(sys.executable).with_name("optuna-dashboard")
    command = [tool, place or "sqlite:///outputs/sweeps/tried/study.db", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: get(port, "/dashboard/"))
            assert b"<html" in get(port, "/dashboard/").lower()
            (summary,) = json.loads(get(port, "/api/studies"))["study_summaries"]
            assert summary["study_name"] == "tried"
            trials = json.loads(get(port, f"/api/studies/{summary['study_id']}"))["trials"]
        finally:
            server.terminate()
    assert [trial["values"] for trial in trials] == [[0.25], [0.5]]
    assert [trial["params"][0]["param_external_value"] for trial in trials] == ["a", "2"]
    attrs = {attr["key"]: attr["value"] for attr in trials[1]["user_attrs"]}
    assert attrs["record"] == "runs/0001"
    assert [point["value"] for point in trials[1]["intermediate_values"]] == [0.1, 0.5]


def get(port: int, path: str) -> bytes:
    """Empty while the server is not there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return bytes(answer.read())
    except OSError:
        return b""
