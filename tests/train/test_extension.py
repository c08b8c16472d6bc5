"""A run that is resumed with a larger budget, and budgets that it cannot have had from the start."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forkserver import ForkServer, UninterruptedRuns, knobs, log
from samerun import assert_same_run
from suites import long_but

from r1.core.errors import UserError
from r1.core.runs import read_run
from r1.run import execute
from r1.train.extension import check_extension

STAGE = {"warmup_steps": 0, "min_lr": 0.0, "decay_steps": None, "examples_per_step": 4}
KILLED, MAX_KILLS, SEED = -9, 2, 18


def budget(steps: int | None, epochs: float | None = None, tokens: int | None = None, **stage: Any) -> dict[str, Any]:
    trainer = {"max_steps": steps, "max_epochs": epochs}
    return {"trainer": trainer, "stage": STAGE | {"schedule": "constant", "total_tokens": tokens} | stage}


@pytest.mark.parametrize(
    ("before", "now", "step"),
    [
        (budget(6), budget(10), 6),
        (budget(None, epochs=1), budget(None, epochs=1.5), 16),  # 64 examples / 4
        (budget(16), budget(None, epochs=1), 16),  # the same steps under another name
        (budget(6, tokens=100), budget(6, tokens=200), 4),
        (budget(6, tokens=100, schedule="cosine"), budget(6, tokens=200, schedule="cosine"), 4),  # the same 6 steps
        (
            budget(8, schedule="wsd", decay_steps=3),
            budget(20, schedule="wsd", decay_steps=3),
            5,
        ),
        (
            budget(8, schedule="wsd", decay_steps=3),
            budget(20, schedule="wsd", decay_steps=3),
            6,
        ),  # starts at 1
        (budget(8, schedule="cosine", warmup_steps=4), budget(9, schedule="cosine", warmup_steps=4), 4),
        (budget(8, schedule="linear"), budget(9, schedule="linear"), 0),
    ],
)
def test_check_extension_where_no_rate_so_far_depends_on_the_total_passes(
    before: dict[str, Any], now: dict[str, Any], step: int
) -> None:
    check_extension(before, now, 64, step)


@pytest.mark.parametrize(
    ("before", "now", "step", "key", "message"),
    [
        (budget(6), budget(5), 2, "trainer.max_steps", "not shortened"),
        (budget(6), budget(None, epochs=0.25), 2, "trainer.max_epochs", "not shortened"),
        (budget(6, tokens=100), budget(9, tokens=99), 2, "stage.total_tokens", "not shortened"),
        (budget(8, schedule="cosine"), budget(9, schedule="cosine"), 2, "trainer.max_steps", "from step 1 on"),
        (budget(8, schedule="linear", warmup_steps=2), budget(9, schedule="linear", warmup_steps=2), 8,
         "trainer.max_steps", "from step 3 on"),
        (budget(8, schedule="wsd", decay_steps=3), budget(20, schedule="wsd", decay_steps=3), 8,
         "trainer.max_steps", "its decay has started"),
    ],
)  # fmt: skip
def test_check_extension_refuses_another_trajectory(
    before: dict[str, Any], now: dict[str, Any], step: int, key: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_extension(before, now, 64, step)
    assert caught.value.key == key


def test_cosine_run_resumed_with_more_steps_is_refused_and_unchanged(
    small: Callable[..., dict[str, Any]], folder: Path
) -> None:
    options = ["stage=sft", "val.every=100", f"output_dir={folder}"]  # conf/stage/sft.yaml: cosine
    execute(small(*options, "trainer.max_steps=2", "stage.warmup_steps=0"), [])
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    with pytest.raises(UserError, match="the learning rates so far depend on the 2 steps") as caught:
        execute(small(*options, "trainer.max_steps=4", "stage.warmup_steps=0", "resume=auto"), [])
    assert "resume_from" in caught.value.hint
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    with pytest.raises(UserError, match="different config") as caught:
        execute(small(*options, "trainer.max_steps=4", "stage.warmup_steps=1", "resume=auto"), [])
    assert caught.value.value == "stage.warmup_steps: 0 -> 1"


def test_extended_record_is_that_of_the_larger_budget(small: Callable[..., dict[str, Any]], folder: Path) -> None:
    """Its last validation was off the schedule: the row is removed, and W&B gets another run for the rest."""
    options = ["stage=sft", "stage.schedule=constant", "val.every=2", f"output_dir={folder}"]
    execute(small(*options, "trainer.max_steps=3"), [])
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_000003"]
    (folder / "wandb_id").write_text("abc")
    execute(small(*options, "trainer.max_steps=4", "resume=auto"), ["trainer.max_steps=4"])
    run = read_run(str(folder))
    assert run.config["trainer"]["max_steps"] == 4
    assert run.manifest["overrides"] == ["trainer.max_steps=4"]
    assert [row["step"] for row in run.metrics if "val/pass@1" in row] == [0, 2, 4]
    assert not (folder / "wandb_id").exists()
    (folder / "wandb_id").write_text("def")
    execute(small(*options, "trainer.max_steps=6", "resume=auto"), [])
    assert (folder / "wandb_id").read_text() == "def"  # no row was removed: the same W&B run goes on


@pytest.mark.parametrize("kind", long_but(("grpo",), ["grpo", "ahead", "kl", "minibatches"]))
def test_run_killed_at_random_and_extended_equals_the_straight_run(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, folder: Path, kind: str
) -> None:
    """Its budget is 3 steps at first, in the middle of a rollout batch and off the validations' schedule."""
    expected, straight = uninterrupted_run(kind)
    rng = random.Random(f"{SEED} {kind}")
    for steps in (3, 6):
        options = knobs(kind, f"trainer.max_steps={steps}", f"checkpoint_every={rng.choice((1, 2, 100))}")
        for kills_left in range(MAX_KILLS, -1, -1):
            delay = rng.uniform(0, straight.seconds) if kills_left else None
            if (code := server.run(options, folder, resume=True, delay=delay).code) != KILLED:
                break
        assert code == 0, log(folder)
        assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
    assert_same_run(expected, folder, checkpoints=False)
