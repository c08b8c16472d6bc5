"""vLLM as a server of its own, here or on another machine: ``python -m r1.serve MODEL`` starts it.

The weights go through a file in a folder that both see, written and announced by the first process of the run; every
process then asks for its own share of the completions.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Interval

from r1.core.errors import STORAGE, UserError
from r1.distributed.collectives import RankGroup
from r1.model.forward import unwrap_peft
from r1.model.loading import DType
from r1.rollout.base import no_op
from r1.rollout.serving.vllm_client import START, Server
from r1.rollout.serving.vllm_worker import SHAPE
from r1.rollout.serving.weight_sync import DTYPES, Parameters, VllmCompletion, WeightSyncedEngine, weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from r1.rollout.serving.async_server import AsyncServerSampler

POLL_EVERY_S = 0.02
MEMORY = Path("/dev/shm")  # where the weights are handed over if no folder is named


class VLLMServer(WeightSyncedEngine):
    """Any number of processes of the run may share the server; two runs may not, and are told so.

    Args:
        url: the server's address.
        temperature: divides the logits, in rollout and training alike; 0 is greedy (evaluation only).
        max_completion_length: T, tokens, the closing one included.
        batch_size: requests in flight at once, from each process of the run.
        dtype: of the file that the weights go through; null: the policy's.
        folder: where that file is written: the server must see it under the same name; null: this machine's memory.
        timeout_s: seconds that one request may take.
        async_steps: 1: the server samples the next batch of stage=grpo during an update (r1.stage.rl.async_rollouts).
    """

    def __init__(
        self,
        *,
        url: str,
        temperature: Annotated[float, Ge(0)],
        max_completion_length: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)],
        dtype: DType | None,
        folder: str | None,
        timeout_s: Annotated[float, Gt(0)],
        async_steps: Annotated[int, Interval(ge=0, le=1)],
    ) -> None:
        super().__init__(temperature, max_completion_length, dtype)
        self.server, self.batch_size, self.async_steps = Server(url, timeout_s), batch_size, async_steps
        self.in_flight: AsyncServerSampler | None = None
        self.folder = Path(folder) if folder else MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())

    def ahead(self) -> AsyncServerSampler | None:
        """This engine, asked by a thread."""
        from r1.rollout.serving.async_server import AsyncServerSampler

        self.in_flight = AsyncServerSampler(self) if self.async_steps else None
        return self.in_flight

    def close(self) -> None:
        """The server stays for the next run."""
        if self.in_flight:
            self.in_flight.close()

    def check(self, config: PretrainedConfig) -> None:
        """Raises: UserError: no server answers, it was not started for this, or it has another model."""
        self.server.get("/weight_info")
        found = self.server.post("/collective_rpc", {"method": "r1_about"})
        about = found["results"][0] if isinstance(found, dict) and found.get("results") else None
        if not isinstance(about, dict):
            raise UserError("this server does not take a policy's weights", key="rollout.url", hint=START)
        ours = config.get_text_config()
        for name in SHAPE:
            if about.get(name) != getattr(ours, name, None):
                message, hint = f"the server has another model: its {name} differs", "restart it with this run's model"
                value = f"{name}={about.get(name)}"
                raise UserError(
                    message, key="rollout.url", value=value, expected=str(getattr(ours, name, None)), hint=hint
                )
        if about.get("logprobs_mode") != "processed_logprobs":
            message = "the server's log-probs are not those of the sampling distribution"
            raise UserError(message, key="rollout.url", value=about.get("logprobs_mode"), hint=START)

    def send(self, model: PreTrainedModel, version: str, ranks: RankGroup) -> None:
        ranks.broadcast_from_rank_zero(lambda: self._send(model, version))

    def _send(self, model: PreTrainedModel, version: str) -> None:
        self.check(unwrap_peft(model).config)
        self.server.post("/update_weight_version", {"new_version": f"{version} on its way"})
        with self._file(model) as file:
            self.server.post("/collective_rpc", {"method": "r1_load", "args": [str(file)]})
        if self.server.post("/reset_prefix_cache") != {"success": True}:
            message = "the server keeps a prefix cache of older weights: somebody else is asking it"
            raise UserError(message, key="rollout.url", value=self.server.url, hint="one run to a server", code=1)
        self.server.post("/update_weight_version", {"new_version": version})
        self.probe(model, version)

    @contextmanager
    def _file(self, model: PreTrainedModel) -> Iterator[Path]:
        """The weights as a safetensors file, for as long as the server needs it."""
        from safetensors.torch import save_file

        dtype = DTYPES[self.dtype] if self.dtype else model.dtype
        try:
            handle, name = tempfile.mkstemp(suffix=".safetensors", prefix="r1-weights-", dir=self.folder)
            os.close(handle)
        except OSError as error:
            message = f"the weights cannot be handed over: {error}"
            raise UserError(message, key="rollout.folder", value=str(self.folder), code=STORAGE) from None
        try:
            save_file({n: value.to("cpu", dtype).contiguous() for n, value in weights(model)}, name)
            yield Path(name)
        except OSError as error:
            message = f"the weights cannot be handed over: {error}"
            raise UserError(message, key="rollout.folder", value=str(self.folder), code=STORAGE) from None
        finally:
            Path(name).unlink(missing_ok=True)

    def ask(
        self, asked: Sequence[tuple[list[int], Parameters]], poll: Callable[[], None] = no_op
    ) -> list[VllmCompletion]:
        bodies = [{"token_ids": prompt, "sampling_params": knobs} for prompt, knobs in asked]
        with ThreadPoolExecutor(min(self.batch_size, len(bodies))) as pool:
            futures = [pool.submit(self.server.written, "/inference/v1/generate", body) for body in bodies]
            try:
                wait_for(futures, poll)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.server.abort_requests()
                raise
            finally:
                pool.shutdown()
                self.server.hung_up.clear()
        return [future.result() for future in futures]


def wait_for(futures: Sequence[Future[Any]], poll: Callable[[], None]) -> None:
    """Until all are done; the first error, or what ``poll`` raises, is raised at once."""
    waiting = set(futures)
    while waiting:
        poll()
        done, waiting = wait(waiting, POLL_EVERY_S, FIRST_EXCEPTION)
        for future in done:
            future.result()
