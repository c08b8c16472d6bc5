"""No secret reaches W&B, its files on this machine, what is printed, the record, or the report made of it."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakewandb import Server
from wandbruns import KEY, TINY

Shell = Callable[..., subprocess.CompletedProcess[str]]
CANARY = "canary7Zq9"  # a part of every secret below
HELD = f"{CANARY}-environment"
REWARD = """
import os

def keyed(completions, *, api_key, url, fails, **columns):
    if fails and len(completions) == 16:
        raise RuntimeError(f"POST {url} with api_key={api_key} or {os.environ['PLANTED_API_KEY']}: 500")
    return [float(len(text) % 2) for text in completions]
"""
PLANTED = f"""# @package _global_
name: {HELD}
extensions: [leaky]
logger: {{name: {HELD}, tags: [{HELD}], group: hf_{CANARY}abcdefghijklmn}}
reward:
  terms:
    keyed:
      _target_: leaky.keyed
      _partial_: true
      weight: 1.0
      api_key: a long {CANARY}-key
      url: https://me:{CANARY}@host.org/v1
"""


@pytest.mark.parametrize("mode", ["online", pytest.param("offline", marks=pytest.mark.long)])
@pytest.mark.parametrize("fails", [True, pytest.param(False, marks=pytest.mark.long)])
def test_nothing_leaks(wandb_server: Server, shell: Shell, tmp_path: Path, mode: str, fails: bool) -> None:
    (tmp_path / "leaky.py").write_text(REWARD)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "planted.yaml").write_text(PLANTED)
    typed = ["experiment=planted", f"+reward.terms.keyed.fails={fails}", f"logger.mode={mode}", "output_dir=run"]
    typed += [*TINY, "logger.log_model=true"]
    command = [sys.executable, "-m", "r1.run", "--config-dir", "conf", "stage=grpo", "logger=wandb"]
    done = shell(*command, *typed, PLANTED_API_KEY=HELD)
    assert (done.returncode != 0) == fails, done.stderr
    report = shell(sys.executable, "-m", "r1.report", "run", PLANTED_API_KEY=HELD)
    assert report.returncode == 0, report.stderr
    if mode == "offline":
        (kept,) = (tmp_path / "run").glob("wandb/offline-run-*")
        assert shell("wandb", "sync", str(kept)).returncode == 0
    (run,) = wandb_server.state.runs.values()
    assert run["state"] == ("failed" if fails else "finished")
    assert ("500" in run["summaryMetrics"]) == fails
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name not in ("leaky.py", "planted.yaml")]
    held = {str(file): file.read_bytes() for file in files} | wandb_server.state.files
    held |= {"run": (done.stdout + done.stderr).encode(), "report": (report.stdout + report.stderr).encode()}
    held |= {f"request {request.index}": request.path.encode() + request.body for request in wandb_server.requests}
    assert len(wandb_server.requests) > 5
    assert leaks(held) == {}


def leaks(held: dict[str, bytes]) -> dict[str, bytes]:
    """Where a secret stands, with what is around it."""
    plain = {name: gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text for name, text in held.items()}
    found = {name: re.search(rb".{0,60}(?:%s|%s).{0,20}" % (CANARY.encode(), KEY.encode()), text, re.DOTALL)
             for name, text in plain.items()}  # fmt: skip
    return {name: match.group() for name, match in found.items() if match}
