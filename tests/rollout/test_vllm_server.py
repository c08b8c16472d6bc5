"""A vLLM server, played on the loopback: what goes there, and everything that can come back instead of a completion."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fakevllm import Server
from httpserver import hang_up, refuse, reply_with
from rolloutsupport import PROMPTS, SEEDS, STOP, assert_same, at, moved
from transformers import AutoTokenizer, PreTrainedModel

from r1.core.errors import STORAGE, Interrupted, UserError
from r1.core.model_paths import resolve_model_path
from r1.core.rank_info import RankInfo
from r1.distributed.collectives import RankGroup
from r1.rollout.transformers import Transformers
from r1.rollout.vllm_server import VLLMServer

Make = Callable[..., PreTrainedModel]
GENERATE = "/inference/v1/generate"


@pytest.fixture
def model(make_model: Make) -> PreTrainedModel:
    return make_model("llama")


@pytest.fixture
def running(model: PreTrainedModel) -> Iterator[Server]:
    with Server(model.config) as server:
        yield server


SIZES: dict[str, Any] = {"max_completion_length": 12, "batch_size": 64, "async_steps": 0}


def engine(url: str, **changes: Any) -> VLLMServer:
    knobs: dict[str, Any] = {**at(0.8), "max_completion_length": 12, "batch_size": 4, "dtype": None}
    return VLLMServer(url=url, **knobs | {"folder": None, "timeout_s": 10.0, "async_steps": 0} | changes)


@pytest.fixture
def remote_engine(running: Server, model: PreTrainedModel) -> VLLMServer:
    """An engine whose server has the policy's weights."""
    found = engine(running.url)
    found.update(model, 0)
    return found


def test_server_completions_equal_the_policys_at_each_version(running: Server, model: PreTrainedModel) -> None:
    remote_engine, embedded = (
        engine(f"{running.url}/v1"),
        Transformers(**at(0.8), **SIZES),
    )
    for step in (0, 0, 1):
        remote_engine.update(moved(model, step), step) if step else remote_engine.update(model, step)
        embedded.update(model, step)
        assert_same(remote_engine.generate(PROMPTS, SEEDS, STOP), embedded.generate(PROMPTS, SEEDS, STOP))
    labels = [request.json["new_version"] for request in running.requests if request.path == "/update_weight_version"]
    assert [label.partition("/")[2] for label in labels] == ["0 on its way", "0", "1 on its way", "1"]
    assert sum(request.path == GENERATE for request in running.requests) == 2 * 3 + 3 * 9
    assert len(running.files) == 2
    assert not any(Path(file).exists() for file in running.files)


def test_server_samples_by_the_same_knobs(running: Server, model: PreTrainedModel) -> None:
    """Filters in vLLM, stop texts here: a copy with other knobs needs no second transfer of the weights."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model_path("r1:tiny"))
    sampling = at(0.9, top_p=0.9, top_k=12, min_p=0.05, repetition_penalty=1.3, stop=["5", "A"])
    remote_engine, embedded = engine(running.url), Transformers(**at(1.0), **SIZES)
    for made in (remote_engine, embedded):
        made.update(model, 0)
    actual, expected = (
        made.with_sampling(sampling, tokenizer).generate(PROMPTS, SEEDS, STOP) for made in (remote_engine, embedded)
    )
    assert_same(actual, expected)
    assert {r.stop_text for group in actual for r in group} >= {"", "5"}
    assert len(running.files) == 1


def test_weights_file_is_written_in_the_configured_folder(
    running: Server, model: PreTrainedModel, tmp_path: Path
) -> None:
    engine(running.url, folder=str(tmp_path)).update(model, 0)
    assert Path(running.files[0]).parent == tmp_path
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="the weights cannot be written for the server") as caught:
        engine(running.url, folder=str(tmp_path / "none")).update(model, 0)
    assert (caught.value.key, caught.value.code) == ("rollout.folder", STORAGE)


def test_unreachable_host_fails_within_the_connect_timeout(running: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1.rollout.serving.vllm_client.CONNECT_TIMEOUT_S", 0.3)

    def late(handler: Any, body: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.6)
        return {}

    running.answers["/weight_info"] = late
    assert engine(running.url).client.get("/weight_info") == {}
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(4):  # it takes no more
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        started = time.monotonic()
        with pytest.raises(UserError, match="does not answer /weight_info: TimeoutError"):
            engine(f"http://127.0.0.1:{full.getsockname()[1]}", timeout_s=60.0).client.get("/weight_info")
        assert time.monotonic() - started < 5


def test_second_run_at_the_same_server_raises(
    running: Server, remote_engine: VLLMServer, model: PreTrainedModel
) -> None:
    remote_engine.generate(PROMPTS, SEEDS, STOP)
    engine(running.url).update(model, 0)  # the same weights, even
    with pytest.raises(UserError, match="vLLM sampled with other weights"):
        remote_engine.generate(PROMPTS, SEEDS, STOP)


def test_weights_changed_during_a_completion_raises(running: Server, remote_engine: VLLMServer) -> None:
    def both(handler: Any, body: dict[str, Any]) -> Any:
        found = running.generate(handler, body)
        found["choices"][0]["weight_versions"].append({"version": "later", "start": 3, "end": 5})
        return found

    running.answers[GENERATE] = both
    with pytest.raises(UserError, match="vLLM sampled with other weights") as caught:
        remote_engine.generate(PROMPTS, SEEDS, STOP)
    assert caught.value.value == f"{remote_engine.engine_weights.version}, later"


def test_server_that_ignores_sent_weights_raises(
    running: Server, remote_engine: VLLMServer, model: PreTrainedModel
) -> None:
    running.weighed.ignores_weights = True
    with pytest.raises(UserError, match="does not sample with them"):
        remote_engine.update(moved(model, 1), 1)


def test_server_death_during_rollout_raises(running: Server, remote_engine: VLLMServer) -> None:
    asked = threading.Event()

    def dying(handler: Any, body: dict[str, Any]) -> Any:
        if asked.is_set():
            return hang_up(handler, body)
        asked.set()
        return running.generate(handler, body)

    running.answers[GENERATE] = dying
    with pytest.raises(UserError, match=f"the vLLM server does not answer {GENERATE}") as caught:
        remote_engine.generate(PROMPTS, SEEDS, STOP)
    assert "resume=auto" in caught.value.hint
    assert caught.value.code == 1


def test_no_server_raises_with_start_hint() -> None:
    with pytest.raises(UserError, match="does not answer /weight_info: ConnectionRefusedError") as caught:
        engine("http://127.0.0.1:9").check_server(None)  # type: ignore[arg-type]
    assert caught.value.hint.startswith("start it with: python -m r1.serve MODEL")


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        (GENERATE, reply_with(b"<html>"), "is no completion"),
        (GENERATE, reply_with(b"[" * 100_000), "is no completion"),
        (GENERATE, reply_with(b'{"choices": []}'), "is no completion"),
        (GENERATE, reply_with(b'{"choices": [{"token_ids": [1], "logprobs": null}]}'), "is no completion"),
        (
            GENERATE,
            reply_with(b'{"choices": [{"token_ids": [1, 2], "logprobs": {"content": [{"logprob": -1}]}, '
                    b'"weight_versions": []}]}'),
            "is no completion",
        ),
        (
            GENERATE,
            reply_with(b'{"choices": [{"token_ids": [1], "logprobs": {"content": [{"logprob": NaN}]}, '
                    b'"weight_versions": []}]}'),
            "is no completion",
        ),
        (
            GENERATE,
            reply_with(b'{"choices": [{"token_ids": [1], "logprobs": {"content": [{"logprob": -1}]}, '
                    b'"weight_versions": null}]}'),
            "other weights",
        ),
        (GENERATE, refuse(400, "prompt too long\x1b[0m"), "with 400: {'message': 'prompt too long"),
        (GENERATE, refuse(403, "Scale-out endpoints are disabled"), "with 403"),
    ],
)  # fmt: skip
def test_invalid_completion_raises_printable_message(
    running: Server, remote_engine: VLLMServer, path: str, answer: Any, said: str
) -> None:
    running.answers[path] = answer
    with pytest.raises(UserError) as caught:
        remote_engine.generate(PROMPTS, SEEDS, STOP)
    assert said in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/weight_info", refuse(404, "Not Found"), "answers /weight_info with 404"),
        ("/collective_rpc", lambda handler, body: {"results": [None]}, "does not take a policy's weights"),
        ("/collective_rpc", reply_with(b"null"), "does not take a policy's weights"),
        ("/reset_prefix_cache", lambda handler, body: {"success": False}, "prefix cache of older weights"),
    ],
)
def test_server_without_r1_extension_raises(
    running: Server, model: PreTrainedModel, path: str, answer: Any, said: str
) -> None:
    running.answers[path] = answer
    with pytest.raises(UserError, match=said):
        engine(running.url).update(model, 0)


def test_server_with_another_architecture_raises(running: Server, model: PreTrainedModel) -> None:
    running.criterion["hidden_size"] = 64
    with pytest.raises(UserError, match="the server has another model: its hidden_size differs") as caught:
        engine(running.url).check_server(model.config)
    assert (caught.value.value, caught.value.expected) == ("hidden_size=64", "32")
    running.criterion |= {"hidden_size": 32, "logprobs_mode": "raw_logprobs"}
    with pytest.raises(UserError, match="not those of the sampling distribution"):
        engine(running.url).check_server(model.config)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://a/b", "http://u:p@host", "http://h:99999", "http://h?x=1"]
)
def test_invalid_url_raises(url: str) -> None:
    with pytest.raises(UserError, match="invalid server address") as caught:
        engine(url)
    assert caught.value.key == "rollout.url"


def test_stop_interrupts_a_silent_server(running: Server, remote_engine: VLLMServer) -> None:
    asked, over = threading.Event(), threading.Event()

    def silent(handler: Any, body: dict[str, Any]) -> Any:
        asked.set()
        over.wait(20)

    def check_for_stop() -> None:
        if asked.is_set():
            raise Interrupted(signal.SIGTERM)

    running.answers[GENERATE] = silent
    started = time.monotonic()
    with pytest.raises(Interrupted):
        remote_engine.generate(PROMPTS, SEEDS, STOP, check_for_stop)
    assert time.monotonic() - started < 5
    over.set()


def test_rank_zero_sends_the_weights_for_all_ranks(running: Server, model: PreTrainedModel, monkeypatch: Any) -> None:
    monkeypatch.setattr(RankGroup, "gather", lambda self, value: ["0123abcd" if value is None else value])
    second = engine(running.url)
    second.update(model, 3, RankGroup(RankInfo(rank=1, size=2)))
    assert running.requests == []
    assert second.engine_weights.version == "0123abcd/3"
    running.weighed.load(model.named_parameters())
    running.weighed.version = "0123abcd/3"
    assert len(second.generate(PROMPTS, SEEDS, STOP)) == 3
