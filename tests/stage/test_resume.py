"""A run that is cut off and continued ends like one that never was: the same bits, the same record."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from r1.errors import Interrupted
from r1.run import execute
from r1.stage.base import Stage

Runner = Callable[..., Path]
RUNS = {
    "grpo": ["stage=grpo", "stage.num_iterations=2", "stage.kl_coef=0.01"],
    "sft": ["stage=sft", "stage.warmup_steps=2"],
}


class Crash(Exception):
    """Stands for a power cut: nothing of r1 catches it."""


@pytest.fixture
def run(small: Callable[..., dict[str, Any]], tmp_path: Path) -> Runner:
    """``run("grpo", "name", ...)``: a run of 6 steps into its own folder."""

    def runner(kind: str, name: str, *overrides: str) -> Path:
        cfg = small(*RUNS[kind], "checkpoint_every=1", f"output_dir={tmp_path / name}", *overrides)
        execute(cfg, [])
        return tmp_path / name

    return runner


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process a SIGTERM while ``step`` is being trained, once."""
    original, asked = Stage.configure_gradient_clipping, []

    def asking(self: Stage, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.trainer.global_step + 1 == step and not asked:
            asked.append(step)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Stage, "configure_gradient_clipping", asking)


def crash_in(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Raise in the middle of ``step``, once."""
    original, crashed = Stage.configure_gradient_clipping, []

    def crashing(self: Stage, *args: Any, **kwargs: Any) -> None:
        if self.trainer.global_step + 1 == step and not crashed:
            crashed.append(step)
            raise Crash
        original(self, *args, **kwargs)

    monkeypatch.setattr(Stage, "configure_gradient_clipping", crashing)


def assert_same_record(a: Path, b: Path) -> None:
    left, right = (load_file(f / "model" / "model.safetensors") for f in (a, b))
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (a / name).read_text() == (b / name).read_text()
    first, second = (json.loads((f / "manifest.json").read_text()) for f in (a, b))
    assert first["status"] == second["status"] == "finished"
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["final"]


@pytest.mark.parametrize("every", [2, 3, 4])
@pytest.mark.parametrize("kind", list(RUNS))
def test_a_stopped_run_continues_to_the_same_bits(
    run: Runner, monkeypatch: pytest.MonkeyPatch, kind: str, every: int
) -> None:
    whole = run(kind, "whole", f"val.every={every}")
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(kind, "cut", f"val.every={every}")
    cut = run(kind, "cut", f"val.every={every}", "resume=auto")
    assert_same_record(whole, cut)
