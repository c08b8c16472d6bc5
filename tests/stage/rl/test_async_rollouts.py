"""rollout.async_steps=1: which weights sample which batch, what corrects for it, and what becomes of the process."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forkserver import ForkServer, knobs, log
from rolloutsupport import at

from r1.config.check.rules import check_rules
from r1.core.errors import Interrupted, UserError, UserErrors
from r1.core.jsonl import read_rows
from r1.rollout.base import Rollout
from r1.rollout.serving.subprocess_sampler import SubprocessSampler
from r1.rollout.transformers import Transformers
from r1.run import execute
from r1.stage.grpo import Grpo
from r1.stage.rl.async_rollouts import AsyncRollouts, RolloutBatch
from r1.stage.rl.experience import Experience

pytestmark = pytest.mark.slow

Config = dict[str, Any]
SEEDS, PROMPTS = [[1, 2, 3], [4, 5, 6]], [[5, 6, 7], [8, 9]]
THREE_STEPS = ("trainer.max_steps=3", "val.every=3", "stage.warmup_steps=0", "keep_best=false")
STILL, BOLD = "stage.lr=1e-30", "stage.lr=0.05"


@pytest.fixture(scope="module")
def run(small: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    @cache
    def runner(*overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("ahead") / "run"
        execute(small("stage=grpo", *THREE_STEPS, f"output_dir={folder}", *overrides), [])
        return folder

    return runner


def written(folder: Path) -> dict[int, list[str]]:
    """Step -> the completions of one group of its rollout batch."""
    steps: dict[int, list[str]] = {}
    for row in read_rows(folder / "samples.jsonl"):
        if row["split"] == "train":
            steps.setdefault(row["step"], []).append(row["completion"])
    return steps


def metrics(folder: Path, name: str) -> list[float]:
    return [row[name] for row in read_rows(folder / "metrics.jsonl") if name in row]


# ---- which weights ----


def test_async_run_with_constant_weights_equals_synchronous_run(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    begin = SubprocessSampler.submit

    def begun(*args: Any) -> None:
        threads.append(torch.get_num_threads())
        begin(*args)

    monkeypatch.setattr(SubprocessSampler, "submit", begun)
    exact, ahead = run(STILL), run(STILL, "rollout.async_steps=1", "threads=2")
    assert threads == [1] * 3, "the two processes share them"
    torch.set_num_threads(1)
    assert written(ahead) == written(exact)
    assert metrics(ahead, "train/reward") == metrics(exact, "train/reward")
    assert metrics(ahead, "train/weights_lag") == [0, 1, 1]
    assert metrics(exact, "train/weights_lag") == []


def test_async_batch_is_sampled_before_the_update(run: Callable[..., Path]) -> None:
    still, exact, ahead = written(run(STILL)), written(run(BOLD)), run(BOLD, "rollout.async_steps=1")
    assert written(ahead)[0] == exact[0] == still[0]
    assert written(ahead)[1] == still[1] != exact[1], "with the weights from before the first update"
    assert written(ahead)[2] not in (still[2], exact[2])
    gaps = metrics(ahead, "train/logprob_gap")
    assert gaps[0] < 1e-5 < gaps[1]


# ---- a killed process ----


def assert_killed_then_resumed(config: Config, whole: Path, kill: Callable[[SubprocessSampler], None]) -> bool:
    """Run with the process killed, and resume, with the result of ``whole``; False: it was killed too late."""
    folder, submit = Path(config["output_dir"]), SubprocessSampler.submit

    def submit_and_kill(self: SubprocessSampler, *args: Any) -> None:
        submit(self, *args)
        kill(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SubprocessSampler, "submit", submit_and_kill)
        error = None
        try:
            execute(config, [])
        except UserError as caught:
            error = caught
    if error:
        assert (error.code, error.message) == (137, "the rollout process was killed by SIGKILL: out of memory?")
        assert json.loads((folder / "manifest.json").read_text())["status"] == "failed"
    execute(config | {"resume": "auto"}, [])
    for name in ("metrics.jsonl", "samples.jsonl", "model/model.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    return error is not None


def after_calls(number: int) -> Callable[[SubprocessSampler], None]:
    calls: list[SubprocessSampler] = []

    def kill(sampler: SubprocessSampler) -> None:
        calls.append(sampler)
        if len(calls) == number:
            sampler.process.kill()

    return kill


@pytest.mark.parametrize("call", [2, pytest.param(1, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_run_whose_rollout_process_is_killed_resumes_to_the_same_result(
    run: Callable[..., Path], small: Callable[..., Config], folder: Path, call: int
) -> None:
    ahead = (BOLD, "rollout.async_steps=1")
    config = small("stage=grpo", *THREE_STEPS, f"output_dir={folder}", "checkpoint_every=1", *ahead)
    assert assert_killed_then_resumed(config, run(*ahead), after_calls(call))


@pytest.mark.long
def test_run_whose_rollout_process_is_killed_at_random_moments_resumes_to_the_same_result(
    run: Callable[..., Path], small: Callable[..., Config], tmp_path: Path
) -> None:
    ahead, draw, killed = (BOLD, "rollout.async_steps=1"), random.Random(0), 0
    for number in range(12):
        where = (f"output_dir={tmp_path / str(number)}", "checkpoint_every=1")
        delays = [draw.uniform(0, 3.0)]  # after the first batch is submitted

        def kill(sampler: SubprocessSampler, delays: list[float] = delays) -> None:
            if delays:
                threading.Timer(delays.pop(), sampler.process.kill).start()

        killed += assert_killed_then_resumed(small("stage=grpo", *THREE_STEPS, *where, *ahead), run(*ahead), kill)
    assert killed, "some runs were still at work"


def test_async_clip_acts_on_ratio_to_sampling_policy(run: Callable[..., Path], stage: Callable[..., Any]) -> None:
    """The clip works on pi_now / pi_then: two tokens at ratios 1.5 and 0.5, advantage 1, clip 0.2."""
    grpo = stage("stage=grpo", "rollout.async_steps=1", "stage.clip_low=0.2", "stage.clip_high=0.2")
    old = torch.tensor([[-1.0, -2.0]])
    now = old + torch.tensor([[1.5, 0.5]]).log()
    objective = grpo.objective
    per_token, clipped = objective.loss.per_token(now, old, torch.ones(1, 1), torch.ones(1, 2), objective.clip)
    assert per_token.tolist() == [[pytest.approx(-1.2), pytest.approx(-0.5)]]
    assert clipped.tolist() == [[1, 0]]
    assert metrics(run(BOLD, "rollout.async_steps=1"), "train/clip_frac")[1] > 0


@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_async_old_logps_are_of_the_weights_that_sampled(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, precision: str, num_iterations: int
) -> None:
    """Of the second rollout batch: the policy's log-probs before the first update, not those after it."""
    gaps: list[tuple[float, float]] = []
    initial: dict[str, torch.Tensor] = {}
    original = Grpo.collect

    def collect(self: Grpo, number: int) -> list[Experience]:
        if not initial:
            initial.update({name: value.clone() for name, value in self.policy.state_dict().items()})
        (experience,) = original(self, number)
        assert experience.old_logps is not None
        if number == 1:
            now = self.logps_under(self.policy, experience)
            before = self.logps_under(_with_weights(self.policy, initial), experience)
            gaps.append(tuple(float((logps - experience.old_logps).abs().max()) for logps in (before, now)))
        return [experience]

    monkeypatch.setattr(Grpo, "collect", collect)
    knobs = [f"trainer.precision={precision}", f"stage.num_iterations={num_iterations}", "stage.packing=false"]
    folder = run(BOLD, "rollout.async_steps=1", *knobs)
    to_sampling, to_current = gaps[0]
    assert to_sampling < (1e-4 if precision == "32-true" else 0.1) < to_current
    assert metrics(folder, "train/clip_frac")[num_iterations] > 0


def _with_weights(policy: Any, weights: dict[str, torch.Tensor]) -> Any:
    model = deepcopy(policy)
    model.load_state_dict(weights)
    return model


def test_resumed_run_does_not_sample_received_batch_again(
    run: Callable[..., Path], small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are gone: they have made place for those of the next one, which is on its way already."""
    whole, cut, original = run(BOLD, "rollout.async_steps=1"), tmp_path / "run", Grpo.with_advantages
    more = ["trainer.max_steps=3", "val.every=3", "stage.warmup_steps=0", "keep_best=false", "checkpoint_every=9"]
    cfg = small("stage=grpo", *more, BOLD, "rollout.async_steps=1", f"output_dir={cut}")

    def stopping(self: Grpo, *args: Any) -> Any:
        if self.trainer.training and self.trainer.global_step == 2:
            raise Interrupted(signal.SIGTERM)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Grpo, "with_advantages", stopping)
        with pytest.raises(Interrupted):
            execute(cfg, [])
    kept = torch.load(cut / "checkpoints/step_000002/state.ckpt", weights_only=True)
    (ahead,) = (state["ahead"] for state in kept["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["stage"])
    assert (ahead["taken"]["number"], ahead["taken"]["version"], ahead["pending"]) == (2, 1, None)
    execute(cfg | {"resume": "auto"}, [])
    for file in ("metrics.jsonl", "samples.jsonl"):
        assert (cut / file).read_text() == (whole / file).read_text()
    assert (cut / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


@dataclass
class Late:
    """One of two devices, whose batch comes late; ``log`` is what both do."""

    log: list[str]
    meet: threading.Barrier
    name: str
    rank: int
    size: int = 2

    def __post_init__(self) -> None:
        self.policy, self.stop_ids = None, set[int]()
        self.run = SimpleNamespace(ranks=self, check_for_stop=lambda: None)
        self.trainer = SimpleNamespace(max_steps=9, global_step=0)
        self.is_rank_zero = self.rank == 0

    def submit(self, *args: Any) -> None: ...

    def gather(self, value: Any) -> list[Any]:
        self.meet.wait(10)
        return [value] * self.size

    def update(self, *given: Any) -> None:
        self.log.append(f"update {self.trainer.global_step}")
        self.gather(None)  # as those do who wait for the first one to send them

    def result(self, poll: Any) -> list[Any]:
        time.sleep(0.2 * self.rank)
        self.log.append(f"{self.name} has it")
        return []

    def wait_until_weights_free(self, check_for_stop: Any) -> None:
        self.result(check_for_stop)


def test_weights_are_not_replaced_before_every_rank_has_its_batch() -> None:
    log: list[str] = []
    meet = threading.Barrier(2)

    def device(rank: int) -> None:
        played: Any = Late(log, meet, f"device {rank}", rank)
        ahead = AsyncRollouts(played, played, lambda number: ([], []), 1, lambda: played.trainer)
        ahead.next_batch(0)
        played.trainer.global_step = 1
        ahead.next_batch(1)
        ahead.wait_until_weights_free()
        log.append("validation")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(device, (0, 1)))
    has_it = ["device 0 has it", "device 1 has it"]
    assert log[:2] == ["update 0"] * 2
    assert log[2:] == [*has_it, *["update 0"] * 2, *has_it, *["update 1"] * 2, *has_it, *["validation"] * 2]


@pytest.mark.parametrize(("then", "now"), [(2, 2), (2, 1), (1, 2)])
def test_restored_batch_is_divided_among_ranks(then: int, now: int) -> None:
    def device(rank: int, size: int) -> Any:
        played: Any = Late([], threading.Barrier(1), "", rank, size)
        return AsyncRollouts(played, played, lambda number: ([], []), 1, lambda: played.trainer)

    groups = [[Rollout([i], [i, 7], [-0.1, -0.2], False)] for i in range(4)]
    states = []
    for rank in range(then):
        made = device(rank, then)
        made.current = RolloutBatch(3, 2, groups[rank * 4 // then : (rank + 1) * 4 // then])
        states.append(made.state(3))
    found = [device(rank, now) for rank in range(now)]
    for one in found:
        one.load_state(states)
    assert [group for one in found for group in one.current.groups] == groups
    assert len({len(one.current.groups) for one in found}) == 1
    assert {one.state(4)["taken"] for one in found} == {None}, "its step has been made"


# ---- the process ----


@pytest.fixture
def sampler() -> Any:
    made = SubprocessSampler(Transformers(**at(1.0), max_completion_length=6, batch_size=8, async_steps=0))
    yield made
    made.close()


def test_subprocess_sampler_matches_in_process_engine(
    sampler: SubprocessSampler, make_model: Callable[..., Any]
) -> None:
    model = make_model("llama")
    other = {name: value + 0.1 for name, value in model.state_dict().items()}
    submit(sampler, model)
    first = sampler.result()
    submit(sampler, model, other)
    kept = sampler.weights()
    second = sampler.result()
    sampler.engine.update(model, 0)
    assert first == sampler.engine.generate(PROMPTS, SEEDS, {96})
    model.load_state_dict(other)
    assert second == sampler.engine.generate(PROMPTS, SEEDS, {96}) != first
    assert all(torch.equal(kept[name], other[name]) for name in other)

    sampler.submit([[5, 10**6]], [[1]], {96})
    with pytest.raises(RuntimeError, match=r"process failed:(.|\n)*IndexError"):
        sampler.result()

    calls: list[int] = []
    submit(sampler, model)
    os.kill(sampler.process.pid, signal.SIGTERM)  # as a cluster sends it to all: it is for the run
    assert sampler.result(lambda: calls.append(1)) == second
    assert calls

    os.kill(sampler.process.pid, signal.SIGKILL)
    sampler.process.join()
    with pytest.raises(UserError, match="killed by SIGKILL"):
        sample_again(sampler, model)


def submit(sampler: SubprocessSampler, model: Any, weights: dict[str, torch.Tensor] | None = None) -> None:
    sampler.update(model, 0, weights=weights)
    sampler.submit(PROMPTS, SEEDS, {96})


def sample_again(sampler: SubprocessSampler, model: Any) -> None:
    submit(sampler, model)
    sampler.result()


def test_subprocess_sampler_ends_with_the_run(server: ForkServer, folder: Path) -> None:
    from killpoints import Point

    env = {"R1_TEST_RUN": str(folder)}  # its own processes are known by it
    seen: set[str] = set()

    def look() -> None:
        while not done.wait(0.05):
            seen.update(processes(folder))

    done = threading.Event()
    looking = threading.Thread(target=look)
    looking.start()
    ended = server.run(knobs("ahead"), folder, Point("r1.stage.grpo:Grpo.training_step", call=5), env=env)
    done.set()
    looking.join()
    assert ended.code == -signal.SIGKILL, log(folder)
    assert seen
    deadline = time.monotonic() + 10
    while processes(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    point = Point("r1.stage.rl.async_rollouts:AsyncRollouts.next_batch", number=signal.SIGTERM)
    stopped = server.run(knobs("ahead"), folder, point, resume=True, env=env)
    assert stopped.code == 143, log(folder)
    assert json.loads((folder / "manifest.json").read_text())["status"] == "interrupted"
    assert not processes(folder)


def processes(folder: Path) -> set[str]:
    """The second processes of runs that were started with this folder in their environment."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            own = f"R1_TEST_RUN={folder}\0".encode() in (process / "environ").read_bytes()
            if own and b"spawn_main" in (process / "cmdline").read_bytes():
                found.add(process.name)
    return found


# ---- what it does not go with ----


@pytest.mark.parametrize(
    ("overrides", "do"),
    [
        (["stage=sft"], "stage=grpo"),
        (["stage=distill_on_policy", "teacher=transformers"], "stage=grpo"),
        (["stage=grpo", "stage.zero_variance=resample"], "zero_variance=drop"),
        (["stage=grpo", "strategy=fsdp", "trainer.devices=2"], "strategy=ddp"),
        (["stage=grpo", "stage.importance=null", "model.dtype=bfloat16"], "stage/importance=token"),
        (["stage=grpo", "stage.importance=null", "rollout=vllm_server"], "stage/importance=token"),
    ],
)
def test_unsupported_async_configs_are_rejected(config: Callable[..., Config], overrides: list[str], do: str) -> None:
    with pytest.raises(UserErrors, match=r"rollout\.async_steps") as raised:
        check_rules(config(*overrides, "rollout.async_steps=1"))
    assert do in str(raised.value)
