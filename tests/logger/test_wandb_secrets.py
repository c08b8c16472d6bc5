"""No secret reaches W&B, its local files, the output, the record or its report."""

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

pytestmark = pytest.mark.slow

Shell = Callable[..., subprocess.CompletedProcess[str]]
CANARY = "canary7Zq9"  # a part of every secret below
SECRET = f"{CANARY}-environment"
REWARD = """
import os

def keyed(completions, *, api_key, url, fails, **columns):
    if fails and len(completions) == 16:
        raise RuntimeError(f"POST {url} with api_key={api_key} or {os.environ['PLANTED_API_KEY']}: 500")
    return [float(len(text) % 2) for text in completions]
"""
PLANTED = f"""# @package _global_
name: {SECRET}
extensions: [leaky]
logger: {{name: {SECRET}, tags: [{SECRET}], group: hf_{CANARY}abcdefghijklmn}}
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
def test_no_secret_leaks(wandb_server: Server, shell: Shell, tmp_path: Path, mode: str, fails: bool) -> None:
    (tmp_path / "leaky.py").write_text(REWARD)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "planted.yaml").write_text(PLANTED)
    options = ["experiment=planted", f"+reward.terms.keyed.fails={fails}", f"logger.mode={mode}", "output_dir=run"]
    options += [*TINY, "logger.log_model=true"]
    command = [sys.executable, "-m", "r1.run", "--config-dir", "conf", "stage=grpo", "logger=wandb"]
    done = shell(*command, *options, PLANTED_API_KEY=SECRET)
    assert (done.returncode != 0) == fails, done.stderr
    report = shell(sys.executable, "-m", "r1.report", "run", PLANTED_API_KEY=SECRET)
    assert report.returncode == 0, report.stderr
    if mode == "offline":
        (run_dir,) = (tmp_path / "run").glob("wandb/offline-run-*")
        assert shell("wandb", "sync", str(run_dir)).returncode == 0
    (run,) = wandb_server.state.runs.values()
    assert run["state"] == ("failed" if fails else "finished")
    assert ("500" in run["summaryMetrics"]) == fails
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name not in ("leaky.py", "planted.yaml")]
    texts = {str(file): file.read_bytes() for file in files} | wandb_server.state.files
    texts |= {"run": (done.stdout + done.stderr).encode(), "report": (report.stdout + report.stderr).encode()}
    texts |= {f"request {request.index}": request.path.encode() + request.body for request in wandb_server.requests}
    assert len(wandb_server.requests) > 5
    assert leaks(texts) == {}


def leaks(texts: dict[str, bytes]) -> dict[str, bytes]:
    """The texts that contain a secret, with the context of its first occurrence."""
    unzipped = {name: gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text for name, text in texts.items()}
    matches = {name: re.search(rb".{0,60}(?:%s|%s).{0,20}" % (CANARY.encode(), KEY.encode()), text, re.DOTALL)
             for name, text in unzipped.items()}  # fmt: skip
    return {name: match.group() for name, match in matches.items() if match}
