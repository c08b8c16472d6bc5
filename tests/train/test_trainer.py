"""The precision of training: half precision runs through every stage, and learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from r1.core.runs import read_run
from r1.core.types import Config
from r1.run import execute

LONG_PROMPTS = "data/template=r1_zero"  # more than 64 tokens, from where decoding shares a group's prompt


@pytest.mark.parametrize(
    "knobs",
    [
        ("stage=eval", "model.dtype=bfloat16"),
        ("stage=eval", "model.dtype=float16"),
        ("stage=eval", "trainer.precision=bf16-mixed"),
        ("stage=sft", "trainer.precision=bf16-mixed", "trainer.max_steps=1"),
        ("stage=grpo", "trainer.precision=bf16-mixed", "trainer.max_steps=1"),
    ],
)
def test_half_precision_runs_with_long_prompts(
    small: Callable[..., Config], folder: Path, knobs: tuple[str, ...]
) -> None:
    execute(small(*knobs, LONG_PROMPTS, "val.every=1", f"output_dir={folder}"), [])
    manifest = read_run(str(folder)).manifest
    assert manifest["status"] == "finished"
    assert manifest["devices"]["precision"] == ("bf16-mixed" if "trainer.precision=bf16-mixed" in knobs else "32-true")


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_manifest_holds_the_precision_that_auto_chose(
    small: Callable[..., Config], folder: Path, monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool
) -> None:
    chosen = "bf16-mixed" if has_bfloat16 else "32-true"
    for module in ("r1.train.fit", "r1.train.trainer"):
        monkeypatch.setattr(f"{module}.resolve_precision", lambda *_: chosen)
    execute(small("stage=eval", "trainer.precision=auto", f"output_dir={folder}"), [])
    run = read_run(str(folder))
    assert (run.config["trainer"]["precision"], run.manifest["devices"]["precision"]) == ("auto", chosen)
