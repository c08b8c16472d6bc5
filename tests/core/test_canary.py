"""A canary in runs of every verb: it works at runtime, and nothing that is written or printed holds it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

pytestmark = pytest.mark.slow

CANARY = "canary" + "7Zq9"  # in two parts, since a record holds the diff of this file
VALUES = {  # by the name of the argument: each holds the canary
    "api_key": f"{CANARY}-key",
    "db_password": f"pw of {CANARY} and words",
    "url": f"https://host.org/x?a=1&sig={CANARY}",
}
REWARD = f"""
import os

def leaky(completions, *, api_key="{{api_key}}", db_password="", url="", fails=False, **columns):
    assert "{CANARY[:6]}" in api_key and "{CANARY[6:]}" in api_key  # the value works
    if fails:
        raise RuntimeError(f"POST {{url}}: 401 x-api-key: {{api_key}} {{os.environ['APP_PAT']}} {{db_password}}")
    return [float(len(text) % 2) for text in completions]
"""
TERM = "+reward.terms.k={_target_: leaky.leaky, weight: 1.0, " + ", ".join(f"{k}: '{v}'" for k, v in VALUES.items())
TINY = [
    *("model=tiny_xs", "threads=1", "val.num_prompts=2", "val.num_samples=2", "val.ks=[1]", "data.num_train=64"),
    *("data.num_val=8", "rollout.max_completion_length=8", "trainer.accelerator=cpu", "extensions=[leaky]"),
]
GRPO = [*TINY, "stage=grpo", "stage.group_size=2", "stage.examples_per_step=2", "trainer.max_steps=1", TERM + "}"]
FAILS = [*GRPO[:-1], TERM + ", fails: true}"]
STEPS = "# @package _global_\nname: p\nsteps:\n  a: " + yaml.safe_dump(GRPO, default_flow_style=True, width=10**6)
NAMED = "+reward.terms.k={_target_: leaky.leaky, weight: 1.0, fails: false, api_key: '${oc.env:APP_PAT}'}"
SWEEP = {
    "method": "grid",
    "metric": {"name": "val/reward/k", "goal": "maximize"},
    "parameters": {"reward.terms.k.fails": {"values": [False, True]}},
    "command": ["python", "-m", "r1.run", *GRPO[:-1], NAMED, "${args_no_hyphens}"],
}
Shell = Callable[..., str]
LONG = pytest.mark.long


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """``shell("r1.run", *argv)`` in a folder with the reward; all that was printed."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "leaky.py").write_text(REWARD)
    (tmp_path / "work").mkdir()

    def run(module: str, *argv: str, code: int | None = 0) -> str:
        paths = f"{tmp_path / 'src'}:{os.environ.get('PYTHONPATH', '')}"
        env = os.environ | {"PYTHONPATH": paths, "APP_PAT": f"{CANARY}-env", "WANDB_MODE": "offline"}
        command = [sys.executable, "-m", module, *argv]
        done = subprocess.run(
            command, cwd=tmp_path / "work", env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert code is None or done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return run


def leaks(folder: Path, *printed: str) -> list[str]:
    texts = {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    texts |= {f"output {i}": text.encode() for i, text in enumerate(printed)}
    return [name for name, text in texts.items() if CANARY.encode() in text]


COMMANDS = [
    pytest.param(["--cfg", "job", *GRPO], 0, id="cfg"),
    pytest.param(["--cfg", "all", *GRPO], 0, id="cfg_all", marks=LONG),
    pytest.param(["--info", "config", *GRPO], 0, id="info", marks=LONG),
    pytest.param(FAILS, 5, id="failed_run"),
    pytest.param(["dry_run=true", *GRPO], 0, id="dry_run", marks=LONG),
    pytest.param([*GRPO, "output_dir='it is #1'"], 0, id="run"),
    pytest.param(["-m", "seed=1,2", *GRPO], 0, id="grid"),
    pytest.param(["-m", "seed=1,2", *FAILS], 5, id="failed_grid", marks=LONG),
    pytest.param(["-m", "seed=1,2", *GRPO, "hydra/launcher=joblib"], 0, id="joblib", marks=LONG),
    pytest.param(["-m", "seed=1,2", *GRPO, "hydra/launcher=submitit_local"], 0, id="submitit", marks=LONG),
    pytest.param([*GRPO, "logger=tensorboard"], 0, id="tensorboard", marks=LONG),
    pytest.param([*GRPO, "logger=wandb"], 0, id="wandb", marks=LONG),
    pytest.param([*GRPO, "trainer.devices=2", "strategy=ddp"], 0, id="ranks", marks=LONG),
    pytest.param([*GRPO, "rollout.async_steps=1"], 0, id="async", marks=LONG),
    pytest.param([*GRPO, "nonsense=1"], 2, id="unknown_key"),
    pytest.param([*TINY, f"+reward.terms.k.api_key='{CANARY}"], 2, id="unreadable"),
    pytest.param([*GRPO, "stage.lr=x"], 2, id="wrong_value", marks=LONG),
    pytest.param([*GRPO, f"stage.password={CANARY}"], 2, id="unknown_secret"),
]


@pytest.mark.parametrize(("argv", "code"), COMMANDS)
def test_no_command_writes_the_canary(shell: Shell, tmp_path: Path, argv: list[str], code: int) -> None:
    assert leaks(tmp_path / "work", shell("r1.run", *argv, code=code)) == []


def test_no_pipeline_writes_the_canary(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "src" / "experiment").mkdir()
    (tmp_path / "src" / "experiment" / "p.yaml").write_text(STEPS)
    flags = ["--config-dir", str(tmp_path / "src"), "experiment=p"]
    assert leaks(tmp_path / "work", shell("r1.run", *flags), shell("r1.run", "--cfg", "job", *flags)) == []


@pytest.mark.long
def test_no_verb_that_reads_a_record_writes_the_canary(shell: Shell, tmp_path: Path) -> None:
    printed = [shell("r1.run", *GRPO, "output_dir=a"), shell("r1.run", *GRPO, "output_dir=b", "seed=1")]
    printed += [shell("r1.compare", "a", "b", code=0), shell("r1.report", "a", "b", "--output", "page.html")]
    printed += [shell("r1.reproduce", "a", code=2), shell("r1.sample", "a", "1+1=?", code=0)]
    assert leaks(tmp_path / "work", *printed) == []


@pytest.mark.long
def test_no_sweep_writes_the_canary(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "src" / "s.yaml").write_text(yaml.safe_dump(SWEEP))
    printed = shell("r1.sweep", str(tmp_path / "src" / "s.yaml"))
    assert "finished" in printed
    assert "failed" in printed
    assert "401 x-api-key: <redacted>" in "".join(log.read_text() for log in tmp_path.rglob("output.log"))
    assert leaks(tmp_path / "work", printed) == []


@pytest.mark.parametrize(
    ("module", "argv"),
    [
        pytest.param("r1.serve", [f"https://me:{CANARY}@host.org/m", "--api-key", f"{CANARY}-key"], marks=LONG),
        pytest.param("r1.serve", ["--api-key", f"{CANARY}-key"], id="serve_usage", marks=LONG),
        pytest.param("r1.sample", [f"https://me:{CANARY}@host.org/m", f"what is api_key={CANARY}?"], marks=LONG),
        pytest.param("r1.sample", ["m", "q", "--api-key", f"{CANARY}-key"], id="sample_usage"),
        pytest.param("r1.compare", [f"https://me:{CANARY}@host.org/m", f"--password={CANARY}"], id="compare_usage"),
        pytest.param("r1.report", [f"s3://me:{CANARY}@host.org/m"], marks=LONG),
        pytest.param(
            "r1.sweep", [f"s3://me:{CANARY}@host.org/m", "--storage", f"postgres://me:{CANARY}@h/d"], marks=LONG
        ),
    ],
)
def test_no_error_screen_of_another_verb_has_the_canary(
    shell: Shell, tmp_path: Path, module: str, argv: list[str]
) -> None:
    assert leaks(tmp_path / "work", shell(module, *argv, code=None)) == []
