"""The part of vLLM that r1 uses, around a transformers model: in process, and behind HTTP on the loopback."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from httpserver import Handler, HttpServer, Request, Responder
from rolloutsupport import at
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from r1.rollout.base import NEUTRAL, Rollout
from r1.rollout.serving.vllm_worker import ARCHITECTURE_FIELDS
from r1.rollout.transformers import Transformers


class WeightedModel:
    """A model that loads weights by name and samples with r1's embedded engine."""

    def __init__(self, config: Any) -> None:
        self.model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
        self.version, self.ignores_weights, self.loads = "default", False, 0

    @torch.no_grad()
    def load(self, weights: Any) -> None:
        self.loads += 1
        own = dict(self.model.named_parameters())
        for name, value in weights:
            own[name].copy_(own[name] if self.ignores_weights else value)

    def complete(self, prompt: list[int], knobs: dict[str, Any]) -> Rollout:
        engine = Transformers(
            **at(**{name: knobs[name] for name in NEUTRAL if name != "stop"}),
            max_completion_length=knobs["max_tokens"],
            batch_size=64,
            async_steps=0,
        )
        engine.update(self.model, 0)
        return engine.generate([prompt], [[knobs["seed"]]], set(knobs["stop_token_ids"]))[0][0]


# ---- in process ----


class LLM:
    instances: ClassVar[list[LLM]] = []

    def __init__(self, model: str, **settings: Any) -> None:
        self.settings, self.weighed = settings, WeightedModel(AutoConfig.from_pretrained(model))
        self.llm_engine, self.calls, self.asleep = Engine(self), [], False
        LLM.instances.append(self)

    def collective_rpc(self, method: str, args: tuple[Any, ...]) -> None:
        assert not self.asleep
        self.calls.append(method)
        self.weighed.load(*args)

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset")
        return True

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")
        self.asleep = True

    def wake_up(self) -> None:
        self.calls.append("wake")
        self.asleep = False


class Engine:
    def __init__(self, llm: LLM) -> None:
        self.llm, self.waiting, self.aborted = llm, {}, []
        self.model_config = SimpleNamespace(enable_sleep_mode=llm.settings["enable_sleep_mode"])
        self.engine_core = SimpleNamespace(shutdown=lambda: llm.calls.append("shutdown"))

    def is_sleeping(self) -> bool:
        return self.llm.asleep

    def set_weight_version(self, version: str) -> None:
        self.llm.weighed.version = version

    def add_request(self, name: str, prompt: dict[str, Any], knobs: Any) -> str:
        assert not self.llm.asleep
        self.waiting[name] = prompt["prompt_token_ids"], vars(knobs)
        return f"{name}-inside"

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def step(self) -> list[Any]:
        """One request at a time, the last one first."""
        name, (prompt, knobs) = self.waiting.popitem()
        rollout = self.llm.weighed.complete(prompt, knobs)
        logprobs = [
            {i: SimpleNamespace(logprob=logp)} for i, logp in zip(rollout.completion_ids, rollout.logps, strict=True)
        ]
        spans = [SimpleNamespace(version=self.llm.weighed.version)]
        out = SimpleNamespace(token_ids=rollout.completion_ids, logprobs=logprobs, weight_versions=spans)
        return [SimpleNamespace(request_id=name, finished=True, outputs=[out])]

    def abort_request(self, names: list[str], internal: bool) -> None:
        assert internal
        self.aborted += names
        self.waiting.clear()


class SamplingParams(SimpleNamespace):
    """Its fields are its arguments."""


# ---- behind HTTP ----


class Server(HttpServer):
    """Each path has an answer, which a test may replace."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.weighed, self.model_lock = WeightedModel(config), threading.Lock()
        self.files: list[str] = []
        self.criterion = {name: getattr(config, name) for name in ARCHITECTURE_FIELDS} | {
            "logprobs_mode": "processed_logprobs"
        }
        self.answers: dict[str, Responder] = {
            "/weight_info": lambda handler, body: {"weight_version": self.weighed.version},
            "/update_weight_version": self.label,
            "/collective_rpc": lambda handler, body: getattr(self, body["method"])(*body.get("args", ())),
            "/reset_prefix_cache": lambda handler, body: {"success": True},
            "/inference/v1/generate": self.generate,
        }

    def answer(self, handler: Handler, request: Request) -> Any:
        with self.model_lock:
            return self.answers[request.path](handler, request.json)

    def label(self, handler: Handler, body: dict[str, Any]) -> Any:
        self.weighed.version = body["new_version"]
        return {"success": True}

    def r1_about(self) -> Any:
        return {"results": [self.criterion]}

    def r1_load(self, file: str) -> Any:
        self.files.append(file)
        self.weighed.load(load_file(file).items())
        return {"results": [None]}

    def generate(self, handler: Handler, body: dict[str, Any]) -> Any:
        rollout = self.weighed.complete(body["token_ids"], body["sampling_params"])
        content = [{"logprob": logp} for logp in rollout.logps]
        spans = [{"version": self.weighed.version, "start": 0, "end": len(content)}]
        return {
            "choices": [
                {"token_ids": rollout.completion_ids, "logprobs": {"content": content}, "weight_versions": spans}
            ]
        }
