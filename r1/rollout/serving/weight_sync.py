"""Engines that sample with a copy of the policy's weights: request protocol and verification of the copy.

Each copy has a version, ``RUN/STEP``. It is sent to vLLM with the weights, comes back with every completion, and must
be the version sent last. That alone does not show that vLLM uses the weights it received. So after each transfer a few
tokens are sampled and their log-probs compared with the policy's own.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from r1.core.errors import UserError
from r1.distributed.collectives import RankGroup
from r1.model.folding import folded_adapters
from r1.model.forward import TOLERANCE, padded_forward
from r1.model.sequences import stack
from r1.rollout.base import NEUTRAL, SINGLE_RANK, CheckForStop, Engine, Rollout, Sampling, no_op
from r1.rollout.decoding.stop_texts import finished_rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = ([3, 5, 7], [6, 2, 9, 8, 5, 4], [1] * 33)  # prompts; the last fills a block of the prefix cache
PROBE_LENGTH = 4
SamplingParameters = dict[str, Any]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MAX_LOGPROB = 1e-3  # of a token: rounding may pass 0


@dataclass(frozen=True)
class VllmCompletion:
    """A completion as vLLM returns it.

    Attributes:
        token_ids, logps: T token ids and their T log-probs.
        weight_versions: the versions of the weights that sampled them, in order.
    """

    token_ids: list[int]
    logps: list[float]
    weight_versions: list[str]


@dataclass
class EngineWeights:
    """Which weights vLLM has; shared by copies of the engine.

    Attributes:
        run: a random id of this run, so that two runs never share a version.
        version: ``RUN/STEP`` of the weights that vLLM has now; empty before the first transfer and during one.
        vocab_size: token ids that the policy has.
    """

    run: str = ""
    version: str = ""
    vocab_size: int = 0


class WeightSyncedEngine(Engine):
    """An engine that samples with vLLM; a subclass implements the transport.

    ``logprobs_match_trainer`` is False: vLLM has other kernels, another batch, perhaps another precision.

    Args:
        sampling: the knobs of ``conf/rollout/_base.yaml``. vLLM has no tokenizer here, so that it samples on behind a
            stop text, and what follows is cut.
        max_completion_length: T, tokens, including the closing one.
        dtype: of vLLM's copy of the weights; null: the policy's.
    """

    batches_per_call: ClassVar[int] = 8

    def __init__(self, sampling: Sampling, max_completion_length: int, dtype: str | None) -> None:
        self.sampling, self.max_completion_length = sampling, max_completion_length
        self.dtype, self.engine_weights = dtype, EngineWeights()

    def update(self, model: PreTrainedModel, version: int, ranks: RankGroup = SINGLE_RANK) -> None:
        """Send the weights, unless vLLM has this version already.

        Raises:
            UserError: they did not arrive, or vLLM does not sample with them.
        """
        current = self.engine_weights
        current.run = current.run or ranks.broadcast_from_rank_zero(lambda: secrets.token_hex(4))
        current.vocab_size = model.config.vocab_size
        full_version = f"{current.run}/{version}"
        if full_version != current.version:
            current.version = ""  # a transfer that fails halfway leaves no valid version
            self.send(model, full_version, ranks)
            current.version = full_version

    def generate(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
        check_for_stop: CheckForStop = no_op,
    ) -> list[list[Rollout]]:
        """Raises: UserError: vLLM does not answer, or sampled with other weights than those of the last update."""
        return self.prepare_request(prompts, seeds, stop_ids)(check_for_stop)

    def prepare_request(
        self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]], stop_ids: set[int]
    ) -> Callable[[CheckForStop], list[list[Rollout]]]:
        """``generate`` as a function to call later, which requires the weights that vLLM has at this moment."""
        length, weights, stop_texts = self.max_completion_length, self.engine_weights, self.stop_texts
        version, vocab_size = weights.version, weights.vocab_size
        requests = [
            (prompt, sampling_parameters(self.sampling, length, seed, stop_ids))
            for prompt, group in zip(prompts, seeds, strict=True)
            for seed in group
        ]

        def generate(check_for_stop: CheckForStop) -> list[list[Rollout]]:
            completions = self.request_completions(requests, check_for_stop)
            check_versions(completions, version)
            check_tokens(completions, vocab_size, length)
            rollouts = iter(
                finished_rollout(prompt, c.token_ids, c.logps, stop_ids, stop_texts)
                for (prompt, _), c in zip(requests, completions, strict=True)
            )
            return [[next(rollouts) for _ in group] for group in seeds]

        return generate

    # ---- the transport ----

    @abstractmethod
    def send(self, model: PreTrainedModel, version: str, ranks: RankGroup) -> None:
        """Send vLLM the weights with their version, and verify them with ``probe``."""

    @abstractmethod
    def request_completions(
        self, requests: Sequence[tuple[list[int], SamplingParameters]], check_for_stop: CheckForStop
    ) -> list[VllmCompletion]:
        """One completion per (prompt, sampling parameters), in order."""

    # ---- verification ----

    def probe(self, model: PreTrainedModel, version: str) -> None:
        """Compare vLLM's log-probs of a few tokens with the policy's.

        Raises:
            UserError: they differ by more than rounding.
        """
        vocab_size, temperature = model.config.vocab_size, self.sampling["temperature"] or 1.0
        prompts = [[token % vocab_size for token in prompt] for prompt in PROBE]
        sampling: Sampling = {**NEUTRAL, "temperature": temperature}
        requests = [(prompt, sampling_parameters(sampling, PROBE_LENGTH, 0, set())) for prompt in prompts]
        completions = self.request_completions(requests, no_op)
        check_versions(completions, version)
        pairs = [(prompt, c.token_ids) for prompt, c in zip(prompts, completions, strict=True)]
        logps = torch.tensor([logp for c in completions for logp in c.logps])
        gap = float((logps - policy_logprobs(model, pairs, temperature)).abs().max())
        # the coarser of the two precisions decides
        tolerance = max(TOLERANCE.get(DTYPES.get(self.dtype or "", model.dtype), 0.3), TOLERANCE.get(model.dtype, 0.3))
        if not gap <= tolerance:  # also true for NaN
            raise UserError(
                f"vLLM was sent the policy's weights, and does not sample with them: log-probs are off by {gap:.3g}",
                key="rollout",
                value=type(model).__name__,
                expected=f"at most {tolerance:g}",
                hint="rollout=transformers; vLLM's implementation of this architecture loads its weights differently",
            )


def sampling_parameters(sampling: Sampling, max_tokens: int, seed: int, stop_ids: set[int]) -> SamplingParameters:
    """vLLM's sampling parameters, all of them explicit: a server's or model's defaults must not apply."""
    return {
        **{name: value for name, value in sampling.items() if name != "stop"},  # texts, which need a tokenizer
        "n": 1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": max_tokens,
        "seed": seed,
        "stop_token_ids": sorted(stop_ids),
        "ignore_eos": True,  # stop_token_ids alone end a completion
        "logprobs": 0,  # of the sampled token alone
        "detokenize": False,
    }


def check_versions(completions: Sequence[VllmCompletion], version: str) -> None:
    """Raises: UserError: some token was sampled with weights other than ``version``."""
    for completion in completions:
        if completion.weight_versions != [version] or not version:
            raise UserError(
                "vLLM sampled with other weights than those of the last update",
                key="rollout",
                value=", ".join(completion.weight_versions) or "no version",
                expected=version or "an update before the first rollout",
                hint="use one server per run: another run may use this one; resume=auto continues from the checkpoint",
                code=1,
            )


def check_tokens(completions: Sequence[VllmCompletion], vocab_size: int, max_length: int) -> None:
    """Raises: UserError: a completion is too long, or holds a token or log-prob that the policy cannot have."""
    for completion in completions:
        ids, logps = completion.token_ids, completion.logps
        if not 0 < len(ids) <= max_length or max(ids) >= vocab_size or max(logps) > MAX_LOGPROB:
            raise UserError(
                "vLLM returned a completion that this policy cannot have sampled",
                key="rollout",
                value=f"{len(ids)} tokens, ids up to {max(ids, default=0)}, log-probs up to {max(logps, default=0):g}",
                expected=f"1 to {max_length} tokens, ids below {vocab_size}, log-probs of 0 at most",
                hint="check that the server serves this run's model",
                code=1,
            )


@torch.no_grad()
def policy_logprobs(model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]], temperature: float) -> Tensor:
    """(N,) log-probs of all completion tokens of (prompt, completion) pairs under the policy itself."""
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, enabled=False):
            logps, _ = padded_forward(model, stack(pairs, 0).to(model.device), temperature, False)
    finally:
        model.train(was_training)
    return logps.float().cpu()


@torch.no_grad()
def checkpoint_weights(model: PreTrainedModel, precision: torch.dtype | None = None) -> dict[str, Tensor]:
    """Every weight as a checkpoint has them: tied weights once, adapters merged, for products in ``precision``."""
    with folded_adapters(model, precision) as merged:
        return {name: parameter.detach() for name, parameter in merged.named_parameters()}
