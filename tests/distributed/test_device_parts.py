"""What devices share and how it is cut up, without any of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1.config.check.devices import check_devices
from r1.core.errors import Interrupted, RankFailed, UserError
from r1.core.rank_info import RankInfo, rank_info_from_env
from r1.distributed.collectives import RankGroup
from r1.distributed.launcher import rank_environment
from r1.experiment.launch import launch
from r1.stage.grpo import Grpo
from r1.stage.rl.experience import concat, split
from r1.stage.training.loader import rescale_progress
from r1.stage.training.step_metrics import StepMetrics, reduce_over_ranks
from r1.stage.validation.sampling import shard
from r1.train.run_state import finalize_manifest


@given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
def test_shards_cover_every_prompt_once_in_order(items: list[int], size: int) -> None:
    parts = [shard(items, rank, size) for rank in range(size)]
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_step_metrics_are_summed_over_ranks_except_times_and_notes() -> None:
    one, other = StepMetrics(), StepMetrics()
    one.add({"train/loss": 0.25, "time/rollout": 2.0})
    one.add({"train/loss": 0.5})
    other.add({"train/loss": 1.0, "time/rollout": 3.0, "train/kl": 0.125})
    for metrics in (one, other):
        metrics.add_replicated({"train/lr": 0.1})
    row = one.reduce(lambda row: [row, {name: value for name, value in other.items() if name != "train/lr"}])
    assert row == {"train/loss": 1.75, "time/rollout": 3.0, "train/kl": 0.125, "train/lr": 0.1}
    assert one == {}
    assert reduce_over_ranks([{}, {}]) == {}


def test_experience_can_be_split_again_for_another_number_of_devices(stage: Callable[..., Grpo]) -> None:
    experience = stage("stage=grpo", "stage.kl_coef=0.1").collect(0)[0]
    again = concat(split(experience, 2))
    for name in ("advantages", "completion_ids", "engine_logps", "old_logps", "ref_logps"):
        assert torch.equal(getattr(again, name), getattr(experience, name)), name
    assert again.lengths == experience.lengths
    for b in range(len(experience)):
        p, q = (
            e.prompt_ids[e.prompt_index[b], : e.prompt_lengths[e.prompt_index[b]]].tolist() for e in (experience, again)
        )
        assert p == q
    assert sum(len(part) for part in split(again, 3)) == len(experience)


def test_rescale_progress_follows_the_number_of_micro_batches() -> None:
    counts = {"ready": 12, "completed": 12}
    checkpoint: dict[str, Any] = {
        "num_micro_batches": 4,
        "loops": {"fit_loop": {"epoch_loop.batch_progress": {"total": counts, "current": dict(counts)}}},
    }
    rescale_progress(checkpoint, 2)
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"] == {"ready": 6, "completed": 6}
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"] == {"ready": 6, "completed": 6}


# ---- who is who ----


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_rank_info_from_env_reads_torchrun_then_srun(alone: pytest.MonkeyPatch) -> None:
    assert rank_info_from_env() is None
    for name, value in {"PROCID": 5, "STEP_NUM_TASKS": 8, "LOCALID": 1, "NODEID": 2}.items():
        alone.setenv(f"SLURM_{name}", str(value))
    assert rank_info_from_env() == RankInfo(rank=5, size=8, local_rank=1, node=2)
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 3}.items():  # torchrun inside of a Slurm job
        alone.setenv(name, str(value))
    assert rank_info_from_env() == RankInfo(rank=3, size=4, local_rank=3, node=0)


def test_check_devices_requires_the_configs_number_of_processes(alone: pytest.MonkeyPatch) -> None:
    check_devices("cpu", 2, 1, multi_device=True)
    for name, value in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0}.items():
        alone.setenv(name, str(value))
    check_devices("cpu", 4, 1, multi_device=True)
    check_devices("cpu", 2, 2, multi_device=True)
    for devices in (1, 2):
        with pytest.raises(UserError, match="has started 4 processes, and the config asks for"):
            check_devices("cpu", devices, 1, multi_device=True)


@pytest.mark.parametrize("argv", [["-m", "seed=0,1"], ["experiment=r1"]])
def test_command_of_several_runs_under_torchrun_raises(alone: pytest.MonkeyPatch, argv: list[str]) -> None:
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1}.items():
        alone.setenv(name, str(value))
    with pytest.raises(UserError, match="starts the processes of each run itself"):
        launch(argv, lambda *_: pytest.fail("started"))


def test_rank_environment_has_torchruns_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environment = rank_environment({"trainer": {"devices": 2}, "threads": None}, 1, 4711)
    assert environment.items() >= {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_PORT": "4711"}.items()
    assert "OMP_NUM_THREADS" not in environment  # the user's stays


def test_single_rank_gather_is_local() -> None:
    ranks = RankGroup()
    assert ranks.gather("x") == ["x"]
    assert ranks.broadcast_from_rank_zero(lambda: 3) == 3
    ranks.heartbeat()
    with pytest.raises(KeyError), ranks.propagate_failures():
        raise KeyError


# ---- how one ends ----


def test_rank_failed_survives_json() -> None:
    error = UserError("no such column", key="reward.terms.x", value=3, expected="y", hint="mend it", code=5)
    failed = RankFailed(**json.loads(json.dumps(RankFailed.of(error, 1, "here").fields)))
    assert failed.code == 5
    assert str(failed).splitlines() == [
        "rank 1 on here: no such column",
        "  key      reward.terms.x",
        "  value    3",
        "  expected y",
        "  hint     mend it",
    ]
    bug = RankFailed.of(KeyError("x"), 2, "there")
    assert (str(bug), bug.code) == ("rank 2 on there: KeyError: 'x'", 1)


def test_finalize_manifest_keeps_a_final_status(tmp_path: Path) -> None:
    assert finalize_manifest(tmp_path, "failed", KeyError("x")) == "failed"  # there is none
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"status": "running", "error": None, "seed": 1}))
    assert finalize_manifest(tmp_path, "interrupted", Interrupted(15)) == "interrupted"
    assert json.loads(manifest.read_text()) == {"status": "interrupted", "error": "Interrupted: SIGTERM", "seed": 1}
    assert finalize_manifest(tmp_path, "failed", KeyError("x")) == "interrupted"  # a final status stays
