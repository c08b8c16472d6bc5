"""Hydra's private API stays behind one module, and composing a config stays light."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from r1.core.paths import PACKAGE, ROOT

PRIVATE = re.compile(r"hydra\._internal|OverridesParser|HydraConfig\.instance|GlobalHydra|create_main_hydra2")


def test_private_hydra_api_is_used_in_one_module() -> None:
    users = [path for path in PACKAGE.rglob("*.py") if PRIVATE.search(path.read_text(encoding="utf-8"))]
    assert users == [PACKAGE / "config" / "hydra_adapter.py"]


def test_cfg_job_prints_the_config_without_importing_torch_or_pydantic() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "r1.run", "--cfg", "job", "stage.lr=0.5"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert (done.returncode, "lr: 0.5" in done.stdout) == (0, True), done.stderr
    assert "hydra" in modules
    assert not modules & {"torch", "pydantic", "lightning"}
