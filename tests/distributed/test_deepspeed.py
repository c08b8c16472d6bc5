"""strategy=deepspeed against the same run on one device; where DeepSpeed is installed (docs/cluster.md)."""

from __future__ import annotations

import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from forkserver import LORA, ForkServer, log
from killpoints import Point
from samerun import assert_same_run, files, manifest
from test_device_runs import DECODE, STEP, TEN, Ended, assert_same, command, ended, on, orphans, stop_and_move

from r1.config.check.rules import check_rules
from r1.core.errors import UserErrors

__all__ = ["ended"]  # a fixture
LONG = pytest.mark.long
NEEDED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed: pip install -e '.[deepspeed]'")
ZERO_1, CLIPPED = "trainer.strategy.stage=1", "stage.max_grad_norm=0.01"


def zero(size: int, kind: str, *overrides: str) -> list[str]:
    return on(size, kind, *overrides, strategy="deepspeed")


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="it is not missing")
def test_missing_deepspeed_raises_before_loading(config: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserErrors, match="needs the package `deepspeed`") as raised:
        check_rules(config("stage=sft", "strategy=deepspeed", "trainer.devices=2"))
    assert "pip install -e '.[deepspeed]'" in str(raised.value)


def test_half_precision_weights_raise(config: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserErrors, match=r"model\.dtype") as raised:
        check_rules(config("stage=sft", "strategy=deepspeed", "model.dtype=bfloat16"))
    assert "trainer.precision=bf16-mixed" in str(raised.value)


CASES = [
    *((kind, 2, []) for kind in ("sft", "grpo", "kl", "resample", "distill", "on_policy", "logits")),
    *((kind, 4, []) for kind in ("sft", "grpo", "on_policy")),
    ("sft", 2, LORA),
    ("resample", 4, ["stage.max_resamples=1"]),  # micro-batches of nothing
    ("grpo", 2, [CLIPPED]),
    ("sft", 2, ["checkpoint_async=true"]),
    ("ahead", 2, []),
]


@LONG
@NEEDED
@pytest.mark.parametrize(("kind", "size", "more"), CASES)
def test_deepspeed_matches_one_device(ended: Ended, kind: str, size: int, more: list[str]) -> None:
    assert_same(ended(kind, 1, *TEN, *more), ended(kind, size, *TEN, *more, strategy="deepspeed"))


@LONG
@NEEDED
def test_deepspeed_on_one_device_matches_single(server: ForkServer, ended: Ended, folder: Path) -> None:
    argv = [*on(1, "sft", *TEN), "strategy=deepspeed"]
    assert server.run(argv, folder).code == 0, log(folder)
    assert_same(ended("sft", 1, *TEN), folder)


@LONG
@NEEDED
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_zero_1_matches_zero_2(ended: Ended, kind: str) -> None:
    assert_same(ended(kind, 1, *TEN), ended(kind, 2, *TEN, ZERO_1, strategy="deepspeed"))


@LONG
@NEEDED
def test_deepspeed_record_has_the_files_of_one_device(ended: Ended) -> None:
    alone, together = ended("sft", 1, *TEN), ended("sft", 2, *TEN, strategy="deepspeed")
    assert files(together, checkpoints=True) == files(alone, checkpoints=True)
    assert manifest(together)["devices"]["strategy"] == "deepspeed"


@LONG
@NEEDED
@pytest.mark.parametrize(
    ("kind", "point", "rank"),
    [
        ("sft", Point(STEP, call=3, number=signal.SIGTERM), 1),
        ("grpo", Point(STEP, call=3, number=signal.SIGTERM), 0),  # between two passes
        ("grpo", Point(DECODE, call=20, number=signal.SIGTERM), 1),
        ("kl", Point(STEP, call=3, number=signal.SIGTERM), 0),
    ],
)
def test_stopped_run_resumes_to_the_same_bits(
    server: ForkServer, ended: Ended, folder: Path, kind: str, point: Point, rank: int
) -> None:
    argv = zero(2, kind, "checkpoint_every=4")
    assert server.run(argv, folder, point, rank=rank).code == 143, log(folder)
    assert server.run(argv, folder, resume=True).code == 0, log(folder)
    assert_same_run(ended(kind, 2, strategy="deepspeed"), folder, checkpoints=False)


MOVES = [
    ("sft", ("deepspeed", 2), ("deepspeed", 4)),
    ("grpo", ("deepspeed", 2), ("ddp", 1)),
    ("sft", ("ddp", 1), ("deepspeed", 2)),
    ("sft", ("fsdp", 2), ("deepspeed", 2)),
    ("grpo", ("deepspeed", 2), ("fsdp", 2)),
]


@LONG
@NEEDED
@pytest.mark.parametrize(("kind", "then", "now"), MOVES)
def test_run_resumes_under_another_strategy(
    server: ForkServer, ended: Ended, folder: Path, kind: str, then: tuple[str, int], now: tuple[str, int]
) -> None:
    stop_and_move(server, folder, kind, then, now)
    assert_same(ended(kind, 1), folder)


@LONG
@NEEDED
def test_non_finite_gradient_ends_the_run(server: ForkServer, folder: Path) -> None:
    result = server.run(zero(2, "sft", "stage.lr=1e25", "stage.warmup_steps=0", "stage.schedule=constant"), folder)
    assert result.code != 0
    assert "the loss or its gradient is not finite" in manifest(folder)["error"], log(folder)


@LONG
@NEEDED
def test_killed_rank_fails_the_run(server: ForkServer, folder: Path) -> None:
    point = Point("r1.stage.sft:Sft.training_step", call=3)
    result = server.run(zero(2, "sft", "trainer.timeout_s=5"), folder, point, rank=1)
    assert result.code == 137, log(folder)
    assert "was killed by SIGKILL" in manifest(folder)["error"]
    assert orphans(folder) == []


@LONG
@NEEDED
def test_stdout_has_only_the_records_folder(folder: Path) -> None:
    done = command("-m", "r1.run", *zero(2, "sft"), f"output_dir={folder}")
    assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert "Warning" not in done.stderr
