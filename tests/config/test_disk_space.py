"""The room that a run needs on its disk, against numbers worked out by hand and against what a run has written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1.config.check.disk_space import disk_space, format_bytes, space_needed
from r1.core.errors import STORAGE, UserError
from r1.core.paths import CONF
from r1.run import execute

Config = dict[str, Any]
WEIGHTS = 4 * 235_648  # float32, of tiny_xs
ADAPTERS = 4 * 20 * 64 * 16 * 4 / WEIGHTS  # of rank 16 on the 4 layers of width 64


@pytest.mark.parametrize(
    ("overrides", "weights"),  # in sizes of the weights: a checkpoint of AdamW has 3
    [
        (["trainer.max_steps=100", "checkpoint_every=1"], 3 * 3 + 1),
        (["trainer.max_steps=100", "checkpoint_every=1", "keep_best=false"], 3 * 3),
        (["trainer.max_steps=100", "checkpoint_every=50"], 2 * 3 + 2),
        (["trainer.max_steps=100", "checkpoint_every=100"], 3 + 2),
        (["trainer.max_steps=100", "checkpoint_every=101"], 3 + 2),
        (["trainer.max_steps=null", "trainer.max_epochs=9"], 3 * 3 + 1),
        (["checkpoint_every=1", "stage/optimizer=muon"], 3 * 2 + 1),
        (["checkpoint_every=1", "stage/optimizer=sgd"], 3 * 2 + 1),
        (["checkpoint_every=1", "stage/optimizer=sgd", "stage.optimizer.momentum=0"], 3 * 1 + 1),
        (["checkpoint_every=1", "stage.kl_coef=0.1", "stage.ref_sync_every=8"], 3 * 4 + 1),
        (["checkpoint_every=1", "keep_checkpoints=1"], 2 * 3 + 1),
        (["checkpoint_every=1", "keep_checkpoints=5"], 6 * 3 + 1),
        (["checkpoint_every=50", "keep_checkpoints=0"], 2 * 3 + 1),
        (["checkpoint_every=1", "+model/lora=default"], 3 * 3 * ADAPTERS + 1),
        (["checkpoint_every=1", "+model/lora=default", "model.dtype=bfloat16"], 3 * 3 * ADAPTERS + 1),
    ],
)
def test_space_needed_counts_checkpoints_and_models(
    config: Callable[..., Config], overrides: list[str], weights: float
) -> None:
    assert space_needed(config("stage=grpo", "model=tiny_xs", *overrides)) == pytest.approx(weights * WEIGHTS)


@pytest.mark.parametrize("stage", ["eval", "rejection_sampling"])
def test_space_needed_of_a_stage_without_training_is_none(config: Callable[..., Config], stage: str) -> None:
    assert space_needed(config(f"stage={stage}", "model=tiny_xs")) == 0


def test_space_needed_knows_the_moments_of_every_optimizer(config: Callable[..., Config]) -> None:
    for option in (CONF / "stage" / "optimizer").glob("*.yaml"):
        cfg = config("model=tiny_xs", f"stage/optimizer={option.stem}", "stage.micro_batch_size=2", "stage.lr=1e-3")
        assert space_needed(cfg) > 3 * 4 * 200_000 * 2, option.stem


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk whose free bytes the test sets."""
    space = SimpleNamespace(free=0, asked=[])

    def disk_usage(path: Path) -> SimpleNamespace:
        space.asked.append(Path(path))
        return space

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    return space


def test_run_without_room_is_refused_before_anything_is_loaded(
    small: Callable[..., Config], disk: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small("stage=grpo") | {"output_dir": str(tmp_path / "not" / "there"), "dry_run": True}
    monkeypatch.setattr("r1.config.build.build", lambda *_: pytest.fail("something was built"))
    disk.free = int(0.79 * space_needed(cfg))
    with pytest.raises(UserError) as caught:
        execute(cfg, [])
    assert (caught.value.code, caught.value.key) == (STORAGE, "output_dir")
    assert format_bytes(space_needed(cfg)) in caught.value.message
    assert f"its disk has {format_bytes(disk.free)}" in caught.value.message
    assert disk.asked == [tmp_path]
    assert not list(tmp_path.iterdir())


def test_run_with_room_within_the_tolerance_starts(small: Callable[..., Config], disk: SimpleNamespace) -> None:
    cfg = small("stage=grpo") | {"dry_run": True}
    disk.free = int(0.81 * space_needed(cfg))
    execute(cfg, [])


def test_resumed_run_has_the_room_of_its_own_files(
    small: Callable[..., Config], disk: SimpleNamespace, tmp_path: Path
) -> None:
    cfg = small("stage=grpo") | {"output_dir": str(tmp_path), "dry_run": True, "resume": "auto"}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "state.ckpt").write_bytes(bytes(space_needed(cfg)))
    disk_space(cfg)
    with pytest.raises(UserError, match=r"its disk has 0\.0 MB"):
        disk_space(cfg | {"resume": None})


@pytest.mark.parametrize("rank", ["1", "3"])
def test_other_ranks_do_not_look_at_the_disk(
    small: Callable[..., Config], disk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    for name, value in {"RANK": rank, "WORLD_SIZE": "4", "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, value)
    disk_space(small("stage=grpo"))
