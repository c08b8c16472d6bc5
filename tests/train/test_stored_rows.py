"""A run over stored rows that is killed and resumed has the bits of one that nobody stopped, also without its cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from forkserver import ForkServer, knobs, log
from killpoints import Point
from samerun import assert_same_run

pytestmark = pytest.mark.slow

STEP = "r1.stage.training.base:TrainingStage.configure_gradient_clipping"


def talk(n: int) -> dict[str, object]:
    turns = [f"{n}+1=?", str(n + 1), "And one more?", str(n + 2)]
    roles = ("user", "assistant") * 2
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]
    return {"messages": messages, "answer": n + 2, "level": n % 3}


@pytest.mark.parametrize("loses_cache", [False, True])
def test_run_over_stored_rows_that_is_killed_resumes_to_the_same_result(
    server: ForkServer, tmp_path: Path, loses_cache: bool
) -> None:
    file, cache = tmp_path / "rows.jsonl", tmp_path / "cache"
    file.write_text("".join(json.dumps(talk(n)) + "\n" for n in range(40)))
    own = ["data=dataset", f"data.path={file}", "stage.examples_per_step=4"]
    overrides = [text for text in knobs("sft", *own) if not text.startswith("data.num_train")]
    env = {"HF_DATASETS_CACHE": str(cache)}
    uninterrupted, killed = tmp_path / "whole", tmp_path / "killed"
    assert server.run(overrides, uninterrupted, env=env).code == 0, log(uninterrupted)
    assert server.run(overrides, killed, Point(STEP, "after", call=3), env=env).code == -9, log(killed)
    (stored,) = (cache / "r1").glob("*/rows.arrow")
    if loses_cache:
        shutil.rmtree(cache)
    assert server.run(overrides, killed, resume=True, env=env).code == 0, log(killed)
    assert stored.exists()
    assert_same_run(uninterrupted, killed)
