"""rollout=vllm_server rollout.async_steps=1, with a played server: which weights sample what, and how a wait ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fakevllm import Server
from httpserver import hang_up
from rolloutsupport import PROMPTS, SEEDS, STOP, assert_same, at, moved
from test_vllm_server import GENERATE, engine
from transformers import PreTrainedModel

from r1.core.errors import Interrupted, UserError
from r1.core.jsonl import read_rows
from r1.rollout.serving.async_server import AsyncServerSampler
from r1.rollout.transformers import Transformers
from r1.run import execute
from r1.stage.training.base import TrainingStage

pytestmark = pytest.mark.slow

Config = dict[str, Any]
STILL, BOLD, ON = "stage.lr=1e-30", "stage.lr=0.05", "rollout.async_steps=1"


@pytest.fixture
def model(make_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return make_model("llama")


@pytest.fixture
def running(model: PreTrainedModel) -> Iterator[Server]:
    with Server(model.config) as server:
        yield server


@pytest.fixture
def sampler(running: Server) -> Iterator[AsyncServerSampler]:
    made = engine(running.url, async_steps=1).async_sampler()
    assert made
    yield made
    made.close()


def embedded(model: PreTrainedModel) -> list[Any]:
    made = Transformers(**at(0.8), max_completion_length=12, batch_size=64, async_steps=0)
    made.update(model, 0)
    return made.generate(PROMPTS, SEEDS, STOP)


class Slow:
    """Holds back every completion until it is let go."""

    def __init__(self, server: Server) -> None:
        self.server, self.asked, self.go = server, threading.Event(), threading.Event()
        server.answers[GENERATE] = self

    def __call__(self, handler: Any, body: dict[str, Any]) -> Any:
        if body["sampling_params"]["max_tokens"] == 12:  # the probe's are shorter
            self.asked.set()
            assert self.go.wait(20)
        return self.server.generate(handler, body)


# ---- one batch ----


def test_async_batch_uses_the_weights_at_submission(
    running: Server, sampler: AsyncServerSampler, model: PreTrainedModel
) -> None:
    first, slow = embedded(model), Slow(running)
    sampler.update(model, 0)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    sampler.submit(PROMPTS, SEEDS, STOP)
    assert slow.asked.wait(10)
    moved(model, 1)  # an update is made meanwhile
    slow.go.set()
    assert_same(sampler.result(), first)
    assert all(torch.equal(sampler.weights()[name], value) for name, value in kept.items())

    now = {name: value.clone() for name, value in model.state_dict().items()}
    second = embedded(model)
    sampler.update(model, 1, weights=kept)  # as a run that goes on does
    assert all(torch.equal(value, now[name]) for name, value in model.state_dict().items())
    sampler.submit(PROMPTS, SEEDS, STOP)
    assert_same(sampler.result(), first)
    sampler.update(model, 2)
    sampler.submit(PROMPTS, SEEDS, STOP)
    assert_same(sampler.result(), second)


def test_async_batch_with_foreign_weights_raises(
    running: Server, sampler: AsyncServerSampler, model: PreTrainedModel
) -> None:
    slow = Slow(running)
    sampler.update(model, 0)
    sampler.submit(PROMPTS, SEEDS, STOP)
    assert slow.asked.wait(10)
    running.weighed.version = "another run's/3"
    slow.go.set()
    with pytest.raises(UserError, match="vLLM sampled with other weights"):
        sampler.wait_until_weights_free()


def test_async_batch_with_newer_weights_raises(
    running: Server, sampler: AsyncServerSampler, model: PreTrainedModel
) -> None:
    slow = Slow(running)
    sampler.update(model, 0)
    sampler.submit(PROMPTS, SEEDS, STOP)
    assert slow.asked.wait(10)
    running.weighed.version = sampler.engine.engine_weights.version = (
        f"{sampler.engine.engine_weights.run}/1"  # sent too early
    )
    slow.go.set()
    with pytest.raises(UserError, match="vLLM sampled with other weights"):
        sampler.wait_until_weights_free()


def test_server_death_raises_at_the_next_result(
    running: Server, sampler: AsyncServerSampler, model: PreTrainedModel
) -> None:
    sampler.update(model, 0)
    running.answers[GENERATE] = hang_up
    sampler.submit(PROMPTS, SEEDS, STOP)
    with pytest.raises(UserError, match=f"the vLLM server does not answer {GENERATE}"):
        sampler.result()


def test_close_after_stop_does_not_wait_for_requests_in_flight(
    running: Server, sampler: AsyncServerSampler, model: PreTrainedModel
) -> None:
    slow = Slow(running)
    sampler.update(model, 0)
    sampler.submit(PROMPTS, SEEDS, STOP)
    assert slow.asked.wait(10)

    def check_for_stop() -> None:
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        sampler.wait_until_weights_free(check_for_stop)
    started = time.monotonic()
    sampler.close()
    assert time.monotonic() - started < 5
    slow.go.set()


# ---- a run ----


@pytest.fixture
def run(small: Callable[..., Config], experiment: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A run of its own server, as each has one."""
    shape = experiment("stage=grpo").model.load_config()

    def runner(name: str, *overrides: str) -> Path:
        folder = tmp_path / name
        more = ["trainer.max_steps=3", "val.every=3", "stage.warmup_steps=0", "keep_best=false", "rollout=vllm_server"]
        with Server(shape) as server:
            url = f"rollout.url={server.url}"
            execute(small("stage=grpo", *more, url, f"output_dir={folder}", *overrides), [])
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


def test_async_run_samples_with_weights_one_update_old(run: Callable[..., Path]) -> None:
    still, exact = written(run("still", STILL)), written(run("exact", BOLD))
    folder = run("ahead", BOLD, ON)
    ahead = written(folder)
    assert metrics(folder, "train/weights_lag") == [0, 1, 1]
    assert ahead[0] == exact[0] == still[0]
    assert ahead[1] == still[1] != exact[1], "with the weights from before the first update"
    assert ahead[2] not in (still[2], exact[2])
    gaps = metrics(folder, "train/logprob_gap")
    assert gaps[0] < 1e-5 < gaps[1]
    between = run("validated", BOLD, ON, "val.every=1")
    assert written(between) == ahead, "a validation, with newer weights, waits for the batch on its way"


def test_resumed_async_run_repeats_the_pending_batch(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("whole", BOLD, ON)
    original = TrainingStage.configure_gradient_clipping

    def stopping(self: TrainingStage, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.trainer.global_step == 1:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStage, "configure_gradient_clipping", stopping)
        with pytest.raises(Interrupted):
            run("cut", BOLD, ON)
    cut = run("cut", BOLD, ON, "resume=auto")
    for file in ("metrics.jsonl", "samples.jsonl"):
        assert (cut / file).read_text() == (whole / file).read_text()
    assert (cut / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
