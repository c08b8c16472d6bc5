"""Runs on several processes against the same run on one: the numbers, the record, the ends that nobody wants."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forkserver import KINDS, ForkServer, knobs, log
from killpoints import Point
from safetensors.torch import load_file
from samerun import assert_same_run, files, manifest

from r1.strategy import shards

pytestmark = pytest.mark.slow

DECODE, STEP = (
    "r1.rollout.decoding.token_sampler:TokenSampler.draw",
    "r1.stage.training.base:TrainingStage.configure_gradient_clipping",
)
TEN = ["trainer.max_steps=10", "val.every=5", "val.num_prompts=3"]  # of 3 prompts and 4 devices, one has none
Ended = Callable[..., Path]


def on(size: int, kind: str, *overrides: str, strategy: str = "ddp") -> list[str]:
    """The command line of a kind on so many devices; a device's micro-batch is never larger than its share."""
    if kind in ("reject", "eval"):
        return knobs(kind, *([f"strategy={strategy}", f"trainer.devices={size}"] if size > 1 else []), *overrides)
    sequences = {"on_policy": 2, "resample": 2}.get(kind, 4 if kind in ("grpo", "kl", "minibatches") else 1) * 4 // size
    batch = min(int(next(o for o in KINDS[kind] if "micro_batch" in o).partition("=")[2]), sequences)
    several = [f"strategy={strategy}", f"trainer.devices={size}"] if size > 1 else []
    return knobs(kind, *several, f"stage.micro_batch_size={batch}", *overrides)


@pytest.fixture(scope="module")
def ended(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """``ended("grpo", 2)``: the folder of a run on two devices without interruption; run once."""
    base = tmp_path_factory.mktemp("devices")

    def once(kind: str, size: int, *overrides: str, strategy: str = "ddp") -> Path:
        folder = base / "_".join([kind, str(size), strategy, *overrides]).replace("/", "-")
        if not folder.exists():
            assert server.run(on(size, kind, *overrides, strategy=strategy), folder).code == 0, log(folder)
        return folder

    return once


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def assert_same(alone: Path, together: Path) -> None:
    """Weights, metrics and samples, up to the order in which floats are added."""
    left, right = (load_file(folder / "model" / "model.safetensors") for folder in (alone, together))
    assert left.keys() == right.keys()
    assert max(float((left[name] - right[name]).abs().max()) for name in left) < 1e-5
    assert len(rows(together)) == len(rows(alone))
    for a, b in zip(rows(alone), rows(together), strict=True):
        assert b == pytest.approx(a, abs=1e-4)
    for a, b in zip(samples(alone), samples(together), strict=True):
        assert b.pop("advantage", 0.0) == pytest.approx(a.pop("advantage", 0.0), abs=1e-4)
        assert b == a
    start, final = (manifest(folder)["metrics"]["final"] for folder in (alone, together))
    assert start.keys() == final.keys()
    assert all(final[name] == pytest.approx(start[name], abs=1e-5) for name in start)


LONG = pytest.mark.long
CASES = [
    pytest.param("sft", 2, []),
    pytest.param("grpo", 2, []),
    pytest.param("distill", 2, [], marks=LONG),
    pytest.param("sft", 4, [], marks=LONG),
    pytest.param("distill", 4, [], marks=LONG),
    *(pytest.param(kind, size, [], marks=LONG) for kind in ("grpo", "kl", "resample", "on_policy") for size in (2, 4)),
    *(pytest.param(kind, 2, [], marks=LONG) for kind in ("logits", "direct", "lora")),
    pytest.param("grpo", 4, ["stage/advantage=batch", "stage.kl_coef=0.05", "stage.kl_in=reward"], marks=LONG),
    pytest.param("grpo", 2, ["stage/advantage=gdpo", "stage.advantage.scale_by_batch=true"], marks=LONG),
    pytest.param("resample", 4, ["stage.max_resamples=1"], marks=LONG),  # micro-batches of nothing
    pytest.param("minibatches", 2, []),
    pytest.param("minibatches", 4, ["stage/loss=grpo"], marks=LONG),
    pytest.param("resample", 2, ["stage.steps_per_rollout=2"], marks=LONG),
]


@pytest.mark.parametrize(("kind", "size", "more"), CASES)
def test_ddp_matches_one_device(ended: Ended, kind: str, size: int, more: list[str]) -> None:
    assert_same(ended(kind, 1, *TEN, *more), ended(kind, size, *TEN, *more))


TOKENS = ["stage.micro_batch_size=null", "stage.micro_batch_tokens=56"]


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        ("grpo", "ddp"),
        pytest.param("resample", "ddp", marks=LONG),  # micro-batches of nothing
        *(pytest.param(kind, "fsdp", marks=LONG) for kind in ("grpo", "sft", "on_policy", "logits")),
    ],
)
def test_micro_batch_tokens_on_two_devices_match_one_device(ended: Ended, kind: str, strategy: str) -> None:
    assert_same(ended(kind, 1, *TEN), ended(kind, 2, *TEN, *TOKENS, strategy=strategy))


SHARDED = [
    pytest.param("sft", 2, ["val.num_prompts=1"]),  # one device has nothing to validate
    *(
        pytest.param(kind, 2, [], marks=LONG)
        for kind in ("grpo", "kl", "lora", "resample", "distill", "logits", "direct", "minibatches")
    ),
    *(pytest.param(kind, 4, [], marks=LONG) for kind in ("sft", "grpo", "on_policy")),
    pytest.param("resample", 2, ["stage.max_resamples=1"], marks=LONG),
]


@pytest.mark.parametrize(("kind", "size", "more"), SHARDED)
def test_fsdp_matches_one_device(ended: Ended, kind: str, size: int, more: list[str]) -> None:
    assert_same(ended(kind, 1, *TEN, *more), ended(kind, size, *TEN, *more, strategy="fsdp"))


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", ["reject", "eval"])
def test_sampling_stages_match_one_device(ended: Ended, kind: str, strategy: str) -> None:
    alone, together = ended(kind, 1), ended(kind, 2, strategy=strategy)
    for name in files(alone, checkpoints=True):
        if name.endswith(".jsonl") and name != "timing.jsonl":
            assert (together / name).read_text() == (alone / name).read_text(), name
    assert manifest(together)["metrics"] == manifest(alone)["metrics"]


def test_ranks_write_one_record(ended: Ended) -> None:
    alone, together = ended("sft", 1, *TEN), ended("sft", 2, *TEN)
    assert files(together, checkpoints=True) == files(alone, checkpoints=True)
    host = os.uname().nodename
    assert manifest(together)["devices"] == {
        "count": 2,
        "strategy": "ddp",
        "precision": "32-true",
        "hosts": [host, host],
    }
    assert manifest(alone)["devices"] == {"count": 1, "strategy": "single", "precision": "32-true", "hosts": [host]}
    assert log(together).count("validation at step 0") == 1  # printed once


# ---- ends that nobody wants ----

TRAINING = "r1.stage.sft:Sft.training_step"
FAILURES = [
    pytest.param("grpo", Point(DECODE, call=20), 1),
    pytest.param("sft", Point(TRAINING, call=3), 0, marks=LONG),
    pytest.param("sft", Point(TRAINING, call=3), 1, marks=LONG),
]


@pytest.mark.parametrize(("kind", "point", "rank"), FAILURES)
def test_killed_rank_fails_the_run(server: ForkServer, folder: Path, kind: str, point: Point, rank: int) -> None:
    result = server.run(on(2, kind), folder, point, rank=rank)
    assert result.code == 137, log(folder)
    assert result.seconds < 60
    error = f"rank {rank} on {os.uname().nodename}: was killed by SIGKILL: out of memory?"
    assert (manifest(folder)["status"], manifest(folder)["error"]) == ("failed", f"RankFailed: {error}")
    assert log(folder).count(f"r1: {error}") == 1
    assert orphans(folder) == []


LIMIT_S = 6
HANGS = {  # where a rank is stopped by SIGSTOP, or never returns
    "start": Point("r1.train.fit:init_process_group", number=signal.SIGSTOP),  # the other rank waits for it
    "connection": Point("torch.distributed:init_process_group", number=signal.SIGSTOP),
    "validation": Point(DECODE, call=3, number=signal.SIGSTOP),
    "training": Point(TRAINING, call=3, number=signal.SIGSTOP),
    "checkpoint": Point("r1.train.checkpoint:Checkpoints.save", call=2, number=signal.SIGSTOP),
    "export": Point("r1.stage.base:Stage.export_policy", number=signal.SIGSTOP),
    "hang in start": Point("r1.train.fit:init_process_group", when="hang"),
    "hang in validation": Point(DECODE, call=3, when="hang"),
    "hang in training": Point(TRAINING, call=3, when="hang"),
}


@pytest.mark.parametrize("rank", [pytest.param(0, marks=LONG), 1])
@pytest.mark.parametrize("where", ["start", *(pytest.param(where, marks=LONG) for where in list(HANGS)[1:])])
def test_hung_rank_ends_the_run_within_twice_the_limit(server: ForkServer, folder: Path, where: str, rank: int) -> None:
    limit = 6
    result = server.run(on(2, "sft", f"trainer.timeout_s={limit}"), folder, HANGS[where], rank=rank)
    assert result.code == 1, log(folder)
    reached = float(log(folder).partition("point reached at ")[2].split()[0])
    assert limit < result.at - reached < 2 * limit
    assert log(folder).count("r1: rank") == log(folder).count(f"r1: rank {rank}") == 1
    assert "Traceback" not in log(folder)
    assert orphans(folder) == []
    if (folder / "manifest.json").exists():
        assert manifest(folder)["status"] == "failed"


def orphans(folder: Path) -> list[str]:
    """Processes that still hold the log of this run open."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.readlink() == folder.with_name(f"{folder.name}.log") for link in (process / "fd").iterdir()):
                pids.append(process.name)
        except OSError:  # it has just ended, or belongs to another user
            continue
    return pids


@pytest.mark.long
def test_exception_on_one_rank_fails_the_run(server: ForkServer, folder: Path) -> None:
    term = "+reward.terms.stumble={_target_: stumble.stumble, weight: 1.0}"
    result = server.run(on(2, "grpo", term, "extensions=[conftest,stumble]"), folder)
    assert result.code == 5, log(folder)
    assert "rank 1 on " in manifest(folder)["error"]
    assert "KeyError: 'nothing of that name'" in manifest(folder)["error"]
    assert log(folder).count("r1: rank 1 on") == 1


STOPS = [
    pytest.param("grpo", Point(DECODE, call=20, number=signal.SIGTERM), 1),  # of one rank alone, in a rollout
    pytest.param("grpo", Point(STEP, call=3, number=signal.SIGTERM), 0, marks=LONG),
    pytest.param("sft", Point(STEP, call=3, number=signal.SIGINT), 1, marks=LONG),
    pytest.param("resample", Point("r1.stage.rl.group_sampler:GroupSampler.sample", call=2, number=15), 0, marks=LONG),
    pytest.param(
        "ahead",
        Point("r1.rollout.serving.subprocess_sampler:SubprocessSampler.result", call=3, number=15),
        1,
        marks=LONG,
    ),
    pytest.param("ahead", Point("r1.stage.rl.async_rollouts:AsyncRollouts._start", call=3, number=15), 1, marks=LONG),
]


@pytest.mark.parametrize(("kind", "point", "rank"), STOPS)
def test_stop_of_one_rank_stops_all_and_resumes_to_the_same_bits(
    server: ForkServer, ended: Ended, folder: Path, kind: str, point: Point, rank: int
) -> None:
    """The very same bits as those of a run on as many devices that was never stopped."""
    assert server.run(on(2, kind, "checkpoint_every=4"), folder, point, rank=rank).code == 128 + point.number, log(
        folder
    )
    assert manifest(folder)["status"] == "interrupted"
    assert server.run(on(2, kind, "checkpoint_every=4"), folder, resume=True).code == 0, log(folder)
    assert_same_run(ended(kind, 2), folder, checkpoints=False)


MOVES = [
    pytest.param("grpo", 2, 1),
    *(pytest.param("grpo", then, now, marks=LONG) for then, now in ((1, 2), (2, 4), (4, 2))),
    *(pytest.param("on_policy", then, now, marks=LONG) for then, now in ((2, 1), (1, 4))),
    *(pytest.param("sft", then, now, marks=LONG) for then, now in ((2, 1), (1, 2), (2, 4))),
]


@pytest.mark.parametrize(("kind", "then", "now"), MOVES)
def test_run_resumes_on_another_number_of_devices(
    server: ForkServer, ended: Ended, folder: Path, kind: str, then: int, now: int
) -> None:
    """Stopped after the third step: with two passes over each rollout batch, in the middle of one."""
    point = Point(STEP, call=3, number=signal.SIGTERM)
    first = server.run(on(then, kind), folder, point, rank=0 if then > 1 else None)
    assert first.code == 143, log(folder)
    fingerprint = manifest(folder)["fingerprint"]
    assert server.run(on(now, kind), folder, resume=True).code == 0, log(folder)
    assert_same(ended(kind, 1), folder)
    assert manifest(folder)["fingerprint"] == fingerprint
    assert manifest(folder)["devices"]["count"] == now
    assert f"trainer.devices was {then} and is {now}, so the rest may differ in its last bits" in log(folder)


SHARDS = [  # strategy and devices at the stop and after it
    pytest.param("grpo", ("fsdp", 2), ("fsdp", 4)),
    pytest.param("sft", ("fsdp", 2), ("ddp", 1)),
    pytest.param("sft", ("ddp", 1), ("fsdp", 2)),
    pytest.param("sft", ("ddp", 2), ("fsdp", 2)),
    pytest.param("grpo", ("fsdp", 4), ("ddp", 2)),
    pytest.param("lora", ("fsdp", 2), ("ddp", 1)),
    pytest.param("lora", ("ddp", 2), ("fsdp", 2)),
]


@pytest.mark.long
@pytest.mark.parametrize(("kind", "then", "now"), SHARDS)
def test_run_resumes_under_another_strategy(
    server: ForkServer, ended: Ended, folder: Path, kind: str, then: tuple[str, int], now: tuple[str, int]
) -> None:
    stop_and_move(server, folder, kind, then, now)
    assert_same(ended(kind, 1), folder)


def stop_and_move(server: ForkServer, folder: Path, kind: str, then: tuple[str, int], now: tuple[str, int]) -> None:
    """Stop a run of one strategy and number of devices after its third step; go on with others."""
    point = Point(STEP, call=3, number=signal.SIGTERM)
    first = server.run(on(then[1], kind, strategy=then[0]), folder, point, rank=0 if then[1] > 1 else None)
    assert first.code == 143, log(folder)
    assert server.run(on(now[1], kind, strategy=now[0]), folder, resume=True).code == 0, log(folder)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sft", "lora"])
def test_stopped_fsdp_run_resumes_to_the_same_bits(server: ForkServer, ended: Ended, folder: Path, kind: str) -> None:
    point = Point(STEP, call=3, number=signal.SIGTERM)
    assert server.run(on(2, kind, strategy="fsdp"), folder, point, rank=1).code == 143, log(folder)
    assert server.run(on(2, kind, strategy="fsdp"), folder, resume=True).code == 0, log(folder)
    assert_same_run(ended(kind, 2, strategy="fsdp"), folder)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_checkpoint_of_several_devices_has_no_frozen_weight(ended: Ended, strategy: str) -> None:
    checkpoint = ended("lora", 2, strategy=strategy) / "checkpoints" / "step_000006" / "state.ckpt"
    saved = shards.consolidate(checkpoint) if checkpoint.is_dir() else torch.load(checkpoint, weights_only=True)
    assert all(".lora_" in name for name in saved["state_dict"])
    assert saved["frozen"]


# ---- the command line ----


def assert_same_weights(expected: Path, actual: Path) -> None:
    """To the bit; the fork server fakes the validations, so the metrics differ."""
    weights = Path("model", "model.safetensors")
    assert (actual / weights).read_bytes() == (expected / weights).read_bytes()
    for key in ("status", "fingerprint", "devices"):
        assert manifest(actual)[key] == manifest(expected)[key]


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(sys.path)
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run([sys.executable, *argv], env=env, capture_output=True, text=True, timeout=280)


@pytest.mark.long
def test_command_line_launches_its_ranks(ended: Ended, folder: Path) -> None:
    done = command("-m", "r1.run", *on(2, "sft"), f"output_dir={folder}")
    assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert_same_weights(ended("sft", 2), folder)
    assert done.stderr.count("validation at step 0") == 1


@pytest.mark.long
def test_sweep_runs_use_several_devices(folder: Path) -> None:
    where = f"output_dir='{folder}/${{hydra:job.num}}'"
    done = command("-m", "r1.run", "-m", *on(2, "sft", "trainer.max_steps=2", "seed=0,1"), where)
    assert done.returncode == 0, done.stderr
    assert [manifest(folder / job)["seed"] for job in "01"] == [0, 1]
    assert [manifest(folder / job)["devices"]["count"] for job in "01"] == [2, 2]


@pytest.mark.long
def test_torchrun_matches_the_own_launcher(ended: Ended, folder: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone"]
    done = command(*launcher, "-m", "r1.run", *on(2, "sft"), f"output_dir={folder}")
    assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert_same_weights(ended("sft", 2), folder)
    assert done.stderr.count("validation at step 0") == 1


@pytest.mark.long
def test_killed_rank_zero_under_torchrun_leaves_a_failed_record(folder: Path) -> None:
    """Nobody but another rank can write down that the process that keeps the record was killed."""
    argv = on(2, "sft", "trainer.max_steps=100000", "val.every=100000", "checkpoint_every=100000")
    argv = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "r1.run", *argv]
    path = os.pathsep.join(sys.path)
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *argv, f"output_dir={folder}"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").is_file() or len(rows(folder)) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(child(launcher.pid, b"RANK=0"), signal.SIGKILL)
        launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    assert manifest(folder)["status"] == "failed"
    assert "rank 0" in manifest(folder)["error"]


def child(parent: int, variable: bytes) -> int:
    """The child process with this environment variable."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(pid) for pid in children if variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
