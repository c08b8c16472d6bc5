"""vLLM as a server, on this machine or another; ``python -m r1.serve MODEL`` starts it.

Weights go through a file in a folder that trainer and server share. Rank 0 writes it and announces it; then every rank
requests its own share of the completions.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

from annotated_types import Ge, Interval

from r1.core.errors import STORAGE, UserError
from r1.core.http import MAX_TIMEOUT_S
from r1.distributed.collectives import RankGroup
from r1.model.loading import DType
from r1.model.transformers_adapter import unwrap_peft
from r1.rollout.base import CheckForStop, Sampling
from r1.rollout.serving.async_server import AsyncServerSampler
from r1.rollout.serving.vllm_client import START_HINT, VllmClient, wait_for_futures
from r1.rollout.serving.vllm_worker import ARCHITECTURE_FIELDS
from r1.rollout.serving.weight_sync import (
    DTYPES,
    SamplingParameters,
    VllmCompletion,
    WeightSyncedEngine,
    checkpoint_weights,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from r1.model.loading import Model

SHARED_MEMORY = Path("/dev/shm")  # the default folder for the weights: no disk is involved


class VLLMServer(WeightSyncedEngine):
    """Any number of ranks of a run may share the server; a second run at the same server is detected as an error.

    Args:
        url: the server's address.
        max_completion_length: T, tokens, including the closing one.
        batch_size: requests in flight at once, from each rank.
        dtype: of the file with the weights; null: the policy's.
        folder: where that file is written; the server must see it under the same path. null: shared memory.
        timeout_s: seconds that one request may take.
        async_steps: 1: the server samples the next batch of stage=grpo during an update (r1.stage.rl.async_rollouts).
        sampling: the knobs of ``conf/rollout/_base.yaml``.
    """

    def __init__(
        self,
        *,
        url: str,
        max_completion_length: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)],
        dtype: DType | None,
        folder: str | None,
        timeout_s: Annotated[float, Interval(gt=0, le=MAX_TIMEOUT_S)],
        async_steps: Annotated[int, Interval(ge=0, le=1)],
        **sampling: Unpack[Sampling],
    ) -> None:
        super().__init__(sampling, max_completion_length, dtype)
        self.client, self.batch_size, self.async_steps = VllmClient(url, timeout_s), batch_size, async_steps
        self.sampler: AsyncServerSampler | None = None
        default = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
        self.folder = Path(folder) if folder else default

    def async_sampler(self) -> AsyncServerSampler | None:
        """This engine behind a thread, with ``async_steps=1``."""
        self.sampler = AsyncServerSampler(self) if self.async_steps else None
        return self.sampler

    def close(self) -> None:
        """Stop the thread; the server stays for the next run."""
        if self.sampler:
            self.sampler.close()

    def check_model(self, model: Model) -> None:
        self.check_server(model.load_config())

    def check_server(self, config: PretrainedConfig) -> None:
        """Raises: UserError: no server answers, it was started without r1.serve, or it has another architecture."""
        self.client.get("/weight_info")
        reply = self.client.post("/collective_rpc", {"method": "r1_about"})
        about = reply["results"][0] if isinstance(reply, dict) and reply.get("results") else None
        if not isinstance(about, dict):
            raise UserError("this server does not take a policy's weights", key="rollout.url", hint=START_HINT)
        text_config = config.get_text_config()
        for name in ARCHITECTURE_FIELDS:
            expected = getattr(text_config, name, None)
            if about.get(name) != expected:
                raise UserError(
                    f"the server has another model: its {name} differs",
                    key="rollout.url",
                    value=f"{name}={about.get(name)}",
                    expected=str(expected),
                    hint="restart it with this run's model",
                )
        if about.get("logprobs_mode") != "processed_logprobs":
            message = "the server's log-probs are not those of the sampling distribution"
            raise UserError(message, key="rollout.url", value=about.get("logprobs_mode"), hint=START_HINT)
        self.max_model_len = about.get("max_model_len")

    def send(self, model: PreTrainedModel, version: str, ranks: RankGroup) -> None:
        ranks.broadcast_from_rank_zero(lambda: self._send(model, version))

    def _send(self, model: PreTrainedModel, version: str) -> None:
        self.check_server(unwrap_peft(model).config)
        # a completion sampled during the transfer must not carry a valid version
        self.client.post("/update_weight_version", {"new_version": f"{version} on its way"})
        with self._weights_file(model) as file:
            self.client.post("/collective_rpc", {"method": "r1_load", "args": [str(file)]})
        if self.client.post("/reset_prefix_cache") != {"success": True}:
            message = "the server keeps a prefix cache of older weights: another client is using it"
            raise UserError(message, key="rollout.url", value=self.client.url, hint="use one server per run", code=1)
        self.client.post("/update_weight_version", {"new_version": version})
        self.probe(model, version)

    @contextmanager
    def _weights_file(self, model: PreTrainedModel) -> Iterator[Path]:
        """The weights as a temporary safetensors file."""
        from safetensors.torch import save_file

        dtype = DTYPES[self.dtype] if self.dtype else model.dtype
        file: Path | None = None
        try:
            descriptor, name = tempfile.mkstemp(suffix=".safetensors", prefix="r1-weights-", dir=self.folder)
            os.close(descriptor)
            file = Path(name)
            save_file(
                {n: value.to("cpu", dtype).contiguous() for n, value in checkpoint_weights(model, dtype).items()}, name
            )
            yield file
        except OSError as error:
            message = f"the weights cannot be written for the server: {error}"
            raise UserError(message, key="rollout.folder", value=str(self.folder), code=STORAGE) from None
        finally:
            if file:
                file.unlink(missing_ok=True)

    def request_completions(
        self, requests: Sequence[tuple[list[int], SamplingParameters]], check_for_stop: CheckForStop
    ) -> list[VllmCompletion]:
        bodies = [{"token_ids": prompt, "sampling_params": parameters} for prompt, parameters in requests]
        with ThreadPoolExecutor(min(self.batch_size, len(bodies))) as pool:
            futures = [pool.submit(self.client.request_completion, body) for body in bodies]

            def poll() -> None:
                check_for_stop()
                self.on_finished(sum(future.done() for future in futures))

            try:
                wait_for_futures(futures, poll)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.client.abort_requests()
                raise
            finally:
                pool.shutdown()
                self.client.aborted.clear()
        return [future.result() for future in futures]
