"""Decoding a batch of groups step by step: the decoder interface, and which decoder serves a model.

From fastest to slowest, each compared with the model's own log-probs before it is used:

* ``GraphDecoder``: the architectures of families.py on a GPU, one CUDA graph per step.
* ``LlamaDecoder``: the architectures of families.py elsewhere.
* ``SharedPrefixDecoder``: models that accept another attention function.
* ``CachedDecoder``: transformers' own forward and cache.
* ``UnpaddedDecoder``: the same without padding, prompts of each length apart.
* ``RecomputeDecoder``: the same without a cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from r1.core.errors import MODEL, UserError
from r1.model.forward import TOLERANCE, padded_forward, supports_packing
from r1.model.sequences import stack
from r1.model.transformers_adapter import exceeds_fixed_rope, unwrap_peft
from r1.model.twin import twin_of
from r1.rollout.decoding.cached_decoder import CachedDecoder, RecomputeDecoder, UnpaddedDecoder
from r1.rollout.decoding.cuda_graph import GraphDecoder
from r1.rollout.decoding.llama_decoder import LlamaDecoder, is_llama_like
from r1.rollout.decoding.shared_prefix import SharedPrefixDecoder

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Decoder(Protocol):
    """Decodes B rows, one per completion; the rows of a group are adjacent.

    Attributes:
        compact_below: dropping finished rows pays off once less than this share of the rows is alive.
    """

    compact_below: float

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        """Prefill the prompts; (B, V) logits of the first token of each completion."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row, (B,); (B, V) logits of the next."""

    def select_rows(self, rows: Tensor) -> None:
        """Drop all rows but these, given as sorted indices."""


Kind = Callable[["PreTrainedModel"], Decoder]
PROBE_PROMPTS, PROBE_GROUP_SIZES = [[3, 5, 7], [6, 2, 9, 8, 5], [4, 4, 10, 2, 8, 3]], [2, 2, 1]
PROBE_COMPLETIONS = [[11, 2, 13], [17, 9, 4], [12, 3, 8], [4, 4, 10], [5, 14, 6]]
PROBE_ROWS = [[0, 1, 2, 3, 4], [0, 2, 3, 4], [0, 3, 4]]  # that are decoded at each step
SLOWER: dict[Kind, str] = {
    CachedDecoder: "transformers' own forward and cache",
    UnpaddedDecoder: "transformers' own cache, prompts of each length apart",
    RecomputeDecoder: "no cache, each token reads its sequence again",
}
_kinds: WeakKeyDictionary[Any, dict[bool, Kind]] = WeakKeyDictionary()


def make_decoder(model: PreTrainedModel, max_length: int) -> Decoder:
    """The fastest decoder for sequences of at most ``max_length`` tokens, prompt included.

    Raises:
        UserError: as in ``fastest_decoder``.
    """
    return fastest_decoder(model, max_length)(model)


def fastest_decoder(model: PreTrainedModel, max_length: int = 0) -> Kind:
    """The class of ``make_decoder``; searched for once per model, and a slow one is warned of.

    Raises:
        UserError: no decoder gives this model's own log-probs, or these are not finite.
    """
    is_varying, kinds = exceeds_fixed_rope(model.config, max_length), _kinds.setdefault(model, {})
    if is_varying not in kinds:
        if not _is_finite(model):
            raise not_finite(model)
        # where rotations depend on the longest row, only rows of equal length are independent of each other
        kinds[is_varying] = kind = UnpaddedDecoder if is_varying else _fitting_decoder(model)
        if kind in SLOWER:
            name = type(unwrap_peft(model)).__name__
            warnings.warn(f"{name} decodes with {SLOWER[kind]}: no faster decoder fits it", stacklevel=2)
    return kinds[is_varying]


def _fitting_decoder(model: PreTrainedModel) -> Kind:
    """The first kind that gives the log-probs of the twin, which shows small differences, and of the model itself."""
    kinds: list[Kind] = list(SLOWER)
    if supports_packing(model):
        kinds = [SharedPrefixDecoder, *kinds]
        if is_llama_like(model.config):
            kinds = [LlamaDecoder, *kinds]
            if model.device.type == "cuda":
                kinds = [GraphDecoder, *kinds]
    twin = twin_of(model.config)
    # autocast rounds by more than the tolerance
    with torch.autocast(model.device.type, enabled=False), torch.autocast("cpu", enabled=False):
        for kind in kinds:
            if (twin is None or matches_model(kind, twin)) and matches_model(kind, model):
                return kind
    raise _refusal(model)


@torch.no_grad()
def _is_finite(model: PreTrainedModel) -> bool:
    """Whether a model's rotations and logits are finite; attention may hide a NaN that the next kernel shows."""
    tokens = torch.tensor([PROBE_PROMPTS[-1]], device=model.device) % model.config.get_text_config().vocab_size
    try:
        logits = model(input_ids=tokens, use_cache=False).logits
    except Exception:  # an architecture may fail in any way; ``_refusal`` has the reason
        return True
    rotations = (buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq"))
    return all(bool(values.isfinite().all()) for values in (logits, *rotations))


def not_finite(model: PreTrainedModel) -> UserError:
    return UserError(
        "the model's log-probs are not finite",
        key="model.path",
        value=model.config.name_or_path,
        hint="float16 overflows in many models (model.dtype=float32), or config.json has a wrong number",
        code=MODEL,
    )


def check_architecture(config: PretrainedConfig) -> None:
    """Check on a twin, before any weight is loaded, that a decoder serves this architecture.

    Raises:
        UserError: none does; it names the reason.
    """
    twin = twin_of(config)
    if twin is not None and not any(matches_model(kind, twin) for kind in SLOWER):
        raise _refusal(twin) if _is_finite(twin) else not_finite(twin)


@torch.no_grad()
def _refusal(model: PreTrainedModel) -> UserError:
    """The error of a model that no decoder serves."""
    tokens = torch.tensor([PROBE_PROMPTS[-1]], device=model.device) % model.config.get_text_config().vocab_size
    hint = ""
    try:
        longer, shorter = (model(input_ids=ids, use_cache=False).logits[0, 1] for ids in (tokens, tokens[:, :2]))
    except Exception as error:  # an architecture may fail in any way
        reason, hint = "does not run on token ids alone", f"{type(error).__name__}: {error}"
    else:
        reason = "has no decoder that gives its own log-probs"
        if (longer - shorter).abs().max() > TOLERANCE.get(model.dtype, 0.3):
            reason = "is not causal: a token's log-probs depend on the tokens behind it"
    return UserError(
        f"{type(unwrap_peft(model)).__name__} {reason}",
        key="model.path" if model.config.name_or_path else "model.config.model_type",
        value=model.config.name_or_path or model.config.model_type,
        expected="an architecture of docs/models.md",
        hint=hint,
        code=MODEL,
    )


@torch.no_grad()
def matches_model(kind: Kind, model: PreTrainedModel) -> bool:
    """Whether three steps of this decoder, with a row dropped before each, give the model's own log-probs."""
    vocab_size = model.config.get_text_config().vocab_size
    prompts = [[token % vocab_size for token in prompt] for prompt in PROBE_PROMPTS]
    completions = torch.tensor(PROBE_COMPLETIONS, device=model.device) % vocab_size
    logps: dict[tuple[int, int], Tensor] = {}
    of_rows = [prompt for prompt, size in zip(prompts, PROBE_GROUP_SIZES, strict=True) for _ in range(size)]
    try:
        pairs = list(zip(of_rows, completions.tolist(), strict=True))
        alone = [padded_forward(model, stack([pair], 0).to(model.device), 1.0, False)[0] for pair in pairs]
        decoder = kind(model)
        for t, rows in enumerate(PROBE_ROWS):
            if t == 0:
                logits = decoder.start(prompts, PROBE_GROUP_SIZES)
            else:
                remaining = [i for i, row in enumerate(PROBE_ROWS[t - 1]) if row in rows]
                decoder.select_rows(torch.tensor(remaining, device=model.device))
                logits = decoder.step(completions[rows, t - 1])
            for i, row in enumerate(rows):
                logps[row, t] = logits[i].float().log_softmax(-1)[completions[row, t]]
    except Exception:  # an architecture may fail in any way
        return False
    tolerance = TOLERANCE.get(model.dtype, 0.3)
    return all(bool((logp - alone[row][t]).abs() < tolerance) for (row, t), logp in logps.items())
