"""The page in a browser: it draws, it searches, hostile text stays text, and the console stays empty."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from records import HOSTILE, Tags, hostile

from r1.core import jsonl
from r1.report import report

MakeRecord = Callable[..., Path]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"),
)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_page_draws_and_searches_in_a_browser(record: MakeRecord, tmp_path: Path) -> None:
    found = {"split": "val", "step": 4, "prompt": "9+9=?", "completion": "<think> needle</think>18", "rewards": {}}
    found |= {"answer": "18", "reward": 0.25, "truncated": True}
    other = record("b", group_size=2, samples=[found, found | {"completion": "<think> hay</think>18"}])
    page = report([str(hostile(record)), str(other)], tmp_path / "page.html")
    address = f"file://{page}#search=NEEDLE"
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    tags = [tag for tag, _ in Tags(done.stdout).tags]
    assert "img" not in tags
    assert re.search(r"<title>r1 2 runs</title>", done.stdout)
    assert tags.count("svg") >= 8
    curves = done.stdout.partition('<div id="responses"')[2].partition("<h3>Points")[0]
    assert curves.count("<svg") == 2  # of the two overrides that differ
    body = done.stdout.partition('<table id="rows">')[2].partition("</table>")[0]
    assert body.count("<tr") == 1 + 1  # the head and the one completion that was searched for
    assert '<details open=""><summary>thinking, 7 characters</summary> needle</details>' in body
    for name, text in (("answer", "18"), ("reward", "0.25")):
        assert re.search(rf'<td data-name="{name}"[^>]*>{text}</td>', body)
    assert "<em>cut off at the length limit</em>" in body
    assert HOSTILE.split(">")[1].replace("<", "&lt;") in done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_constant_metric_is_drawn_as_a_level_line(record: MakeRecord, tmp_path: Path) -> None:
    folder = record("a")
    (folder / "metrics.jsonl").unlink()
    jsonl.append_rows(folder / "metrics.jsonl", [{"step": step, "train/lr": 3e-4} for step in range(1, 60)])
    page = report([str(folder)], tmp_path / "page.html")
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"file://{page}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = [path for path in re.findall(r'<path[^>]* d="(M[^"]+)"', done.stdout) if path.count("L") > 50]
    assert len(lines) >= 2  # raw and smoothed
    assert {len(set(re.findall(r",(-?[0-9.]+)", line))) for line in lines} == {1}
