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
    assert read_run(str(folder)).manifest["status"] == "finished"
