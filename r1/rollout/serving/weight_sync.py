"""Engines that sample with a copy of the policy's weights: how they are asked, and how their copy is kept honest.

Each copy has a version, ``RUN/STEP``: it goes to vLLM with the weights, comes back with every completion, and must be
the one that was sent last. After each sending a few tokens are sampled and held against the policy's own log-probs:
weights that arrived but are not used have the right version, too.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from r1.core.errors import UserError
from r1.distributed.collectives import RankGroup
from r1.model.forward import TOLERANCE, padded_forward, unwrap_peft
from r1.model.sequences import stack
from r1.rollout.base import SINGLE_RANK, Rollout, Sampler, no_op

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

PROBE = ([3, 5, 7], [6, 2, 9, 8, 5, 4], [1] * 33)  # prompts; the last fills a block of the prefix cache
PROBE_LENGTH = 4
Parameters = dict[str, Any]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class VllmCompletion:
    """A completion as vLLM gives it.

    Attributes:
        ids, logps: of its tokens.
        versions: of the weights that sampled them.
    """

    ids: list[int]
    logps: list[float]
    versions: list[str]


@dataclass
class EngineWeights:
    """What is known of the copy of the weights; shared by copies of the engine."""

    run: str = ""
    version: str = ""  # none is held


class WeightSyncedEngine:
    """Everything but the two ways to reach vLLM.

    Args:
        temperature: divides the logits, in rollout and training alike; 0 is greedy (evaluation only).
        max_completion_length: T, tokens, the closing one included.
        dtype: of the copy; null: the policy's.
    """

    exact: ClassVar[bool] = False  # other kernels, another batch, perhaps another precision
    num_processes: int = 1

    def __init__(self, temperature: float, max_completion_length: int, dtype: str | None) -> None:
        self.temperature, self.max_completion_length = temperature, max_completion_length
        self.dtype, self.copy = dtype, EngineWeights()

    # ---- what an engine does ----

    def update(self, model: PreTrainedModel, version: int, ranks: RankGroup = SINGLE_RANK) -> None:
        """Send the weights, unless they are there.

        Raises:
            UserError: they did not arrive, or vLLM does not sample with them.
        """
        self.copy.run = self.copy.run or ranks.broadcast_from_rank_zero(lambda: secrets.token_hex(4))
        wanted = f"{self.copy.run}/{version}"
        if wanted != self.copy.version:
            self.copy.version = ""
            self.send(model, wanted, ranks)
            self.copy.version = wanted

    def generate(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
        poll: Callable[[], None] = no_op,
    ) -> list[list[Rollout]]:
        """Raises: UserError: vLLM cannot be asked, or sampled with other weights than those of the last update."""
        return self.order(prompts, seeds, stop_ids)(poll)

    def order(
        self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]], stop_ids: set[int]
    ) -> Callable[[Callable[[], None]], list[list[Rollout]]]:
        """``generate`` for later: what comes then must be of the weights that vLLM has now."""
        length, version = self.max_completion_length, self.copy.version
        asked = [
            (prompt, parameters(self.temperature, length, seed, stop_ids))
            for prompt, group in zip(prompts, seeds, strict=True)
            for seed in group
        ]

        def made(poll: Callable[[], None]) -> list[list[Rollout]]:
            written = self.ask(asked, poll)
            check_versions(written, version)
            rollouts = iter(
                Rollout(prompt, one.ids, one.logps, truncated=one.ids[-1] not in stop_ids)
                for (prompt, _), one in zip(asked, written, strict=True)
            )
            return [[next(rollouts) for _ in group] for group in seeds]

        return made

    def ahead(self) -> Sampler | None:
        return None

    def close(self) -> None:
        """A server stays for the next run."""

    # ---- the two ways to reach vLLM ----

    def check(self, config: PretrainedConfig) -> None:
        """Raises: UserError: what can be known without weights speaks against sampling with this architecture."""

    def send(self, model: PreTrainedModel, version: str, ranks: RankGroup) -> None:
        """Give vLLM the weights, with their version, and probe it."""
        raise NotImplementedError

    def ask(self, asked: Sequence[tuple[list[int], Parameters]], poll: Callable[[], None]) -> list[VllmCompletion]:
        """A completion for each prompt with its sampling parameters."""
        raise NotImplementedError

    # ---- the probe ----

    def probe(self, model: PreTrainedModel, version: str) -> None:
        """Raises: UserError: vLLM's log-probs of a few tokens are not those of the policy."""
        size, temperature = model.config.vocab_size, self.temperature or 1.0
        prompts = [[token % size for token in prompt] for prompt in PROBE]
        written = self.ask([(p, parameters(temperature, PROBE_LENGTH, 0, set())) for p in prompts], no_op)
        check_versions(written, version)
        pairs = [(prompt, one.ids) for prompt, one in zip(prompts, written, strict=True)]
        expected = policy_logprobs(model, pairs, temperature)
        gap = float((torch.tensor([logp for one in written for logp in one.logps]) - expected).abs().max())
        tolerance = max(TOLERANCE.get(DTYPES.get(self.dtype or "", model.dtype), 0.3), TOLERANCE.get(model.dtype, 0.3))
        if not gap <= tolerance:
            raise UserError(
                f"vLLM was given the policy's weights, and does not sample with them: log-probs are off by {gap:.3g}",
                key="rollout",
                value=type(model).__name__,
                expected=f"at most {tolerance:g}",
                hint="rollout=transformers; vLLM's copy of this architecture takes its weights in another form",
            )


def parameters(temperature: float, max_tokens: int, seed: int, stop_ids: set[int]) -> Parameters:
    """vLLM's sampling parameters; nothing is left to the defaults of the server, or of the model."""
    return {
        "n": 1,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": max_tokens,
        "seed": seed,
        "stop_token_ids": sorted(stop_ids),
        "ignore_eos": True,  # what ends a completion is said above
        "logprobs": 0,  # of the sampled token alone
        "detokenize": False,
    }


def check_versions(written: Sequence[VllmCompletion], version: str) -> None:
    """Raises: UserError: some token was sampled with other weights."""
    for one in written:
        if one.versions != [version] or not version:
            raise UserError(
                "vLLM sampled with other weights than those of the last update",
                key="rollout",
                value=", ".join(one.versions) or "no version",
                expected=version or "an update before the first rollout",
                hint="one run to a server: another one may use it, too; resume=auto goes on from the last checkpoint",
                code=1,
            )


@torch.no_grad()
def policy_logprobs(model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]], temperature: float) -> Tensor:
    """(N,) log-probs of all completion tokens under the policy itself."""
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, enabled=False):
            logps, _ = padded_forward(model, stack(pairs, 0).to(model.device), temperature, False)
    finally:
        model.train(was_training)
    return logps.float().cpu()


@torch.no_grad()
def weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every weight as in a checkpoint, tied ones once, adapters added to what they adapt."""
    whole = unwrap_peft(model)
    for name, parameter in whole.named_parameters():
        owner, _, rest = name.partition(".base_layer.")
        if rest:
            layer: Any = whole.get_submodule(owner)
            delta = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters) if rest == "weight" else 0
            yield f"{owner}.{rest}", parameter.detach() + delta
        elif ".lora_" not in name:
            yield name, parameter.detach()
