"""From a batch of sequences to the log-probability and entropy of every completion token: the one way r1 asks a model.

Rollout, trainer, reference and teacher log-probs all come from here (or from the decoder, which is held against it),
with the sampling temperature applied, so that a ratio of two policies is 1 wherever they are the same.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from r1.model.functional import token_entropy, token_logps
from r1.model.fused_divergence import Divergence, head_divergence, logits_divergence
from r1.model.fused_logprobs import head_logps
from r1.model.packing import attention, custom_attention, pack
from r1.model.sequences import Sequences, stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}  # of a log-prob; a wrong mask is off by more
PROBE = [([3, 5, 7], [11, 2, 13, 4]), ([3, 5, 7], [17]), ([6, 2, 9, 8, 5], [12, 3]), ([6, 2, 9, 8, 5], [4, 4, 10])]
PROBE_OTHER_BATCH = [
    *PROBE[:2],
    ([1, 7, 4, 3, 10], [5, 14]),
    ([1, 7, 4, 3, 10], [8, 1, 6]),
]  # the first prompt has other company
PROBE_NUM_TOKENS = 5  # completion tokens of the first prompt


class Forward:
    """How the policy is applied to a batch; neither choice can change the result beyond rounding.

    Args:
        packing: all tokens in one row and no padding, with the output layer applied in tiles; false: the model's own
            padded forward and full logits.
        share_prompts: with packing, each prompt goes through the model once for all of its completions.
    """

    def __init__(self, packing: bool, share_prompts: bool) -> None:
        self.packing, self.share_prompts = packing, share_prompts
        self._can_pack: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    def __call__(
        self, model: PreTrainedModel, batch: Sequences, temperature: float, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(B, T) log-probabilities and entropies at the completion tokens, 0 elsewhere, float32."""
        if self.packing and self.can_pack(model, batch):
            logps, entropy = packed(model, batch, temperature, entropy_gradient, self.share_prompts)
        else:
            logps, entropy = padded_forward(model, batch, temperature, entropy_gradient)
        return scatter_to_mask(batch, logps), scatter_to_mask(batch, entropy)

    def divergence_from_teacher(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel,
        batch: Sequences,
        temperature: float,
        divergence: Divergence,
        want_logps: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The divergence of ``model`` from ``teacher`` at every completion token, over the whole vocabulary.

        Returns:
            (B, T) divergences at ``temperature`` in nats, and, if wanted, (B, T) log-probabilities of the completion
            tokens under ``model`` at temperature 1; both float32, 0 behind a completion's end. Only ``model`` has a
            gradient.
        """
        targets, logps = batch.completion_ids[batch.mask], None
        if self.packing and self.can_pack(model, batch) and self.can_pack(teacher, batch):
            hidden, weight = packed_states(model, batch, self.share_prompts)
            with torch.no_grad():
                theirs = packed_states(teacher, batch, self.share_prompts)
            found = head_divergence(hidden, weight, *theirs, temperature, divergence)
            if want_logps:
                logps, _ = head_logps(hidden, weight, targets, 1.0)
        else:
            logits = plain_logits(model, batch)
            with torch.no_grad():
                found_there = plain_logits(teacher, batch)
            found = logits_divergence(logits, found_there, temperature, divergence)
            if want_logps:
                logps = token_logps(logits, targets, 1.0)
        return scatter_to_mask(batch, found), None if logps is None else scatter_to_mask(batch, logps)

    def can_pack(self, model: PreTrainedModel, batch: Sequences) -> bool:
        """Whether packing gives what the model itself gives: tried once per model, said once if it does not."""
        if model not in self._can_pack:
            self._can_pack[model] = supports_packing(model)
            if not self._can_pack[model]:
                warnings.warn(
                    f"{type(model).__name__} does not take packed sequences: training with padding", stacklevel=2
                )
        window = getattr(model.config, "sliding_window", None)
        return self._can_pack[model] and (window is None or _longest(batch) <= window)


def packed(
    model: PreTrainedModel, batch: Sequences, temperature: float, entropy_gradient: bool, share_prompts: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of all completion tokens in a row, without padding."""
    hidden, weight = packed_states(model, batch, share_prompts)
    return head_logps(hidden, weight, batch.completion_ids[batch.mask], temperature, entropy_gradient)


def packed_states(model: PreTrainedModel, batch: Sequences, share_prompts: bool) -> tuple[Tensor, Tensor]:
    """(N, H) what the output layer is applied to at the N completion tokens, and its (V, H) weight."""
    layout = pack(batch, share_prompts)
    whole = unwrap_peft(model)
    with custom_attention(model, attention):
        out = whole.base_model(
            input_ids=layout.input_ids, position_ids=layout.position_ids, use_cache=False, layout=layout
        )
    hidden = nn.functional.embedding(layout.sources, out.last_hidden_state[0])  # selects rows
    return hidden, whole.get_output_embeddings().weight


def padded_forward(
    model: PreTrainedModel, batch: Sequences, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """The same from the model's own forward."""
    logits = plain_logits(model, batch)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = token_entropy(logits, temperature)
    return token_logps(logits, batch.completion_ids[batch.mask], temperature), entropy


def plain_logits(model: PreTrainedModel, batch: Sequences) -> Tensor:
    """(N, V) logits at the completion tokens, from one padded row per completion."""
    prompts = [batch.prompt_ids[p, : batch.prompt_lengths[p]] for p in batch.prompt_index]
    rows = [torch.cat([p, c[:n]]) for p, c, n in zip(prompts, batch.completion_ids, batch.lengths, strict=True)]
    input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    places = [
        (b, len(p) - 1 + t) for b, (p, n) in enumerate(zip(prompts, batch.lengths, strict=True)) for t in range(n)
    ]
    row, column = torch.tensor(places, device=input_ids.device).T
    return model(input_ids=input_ids, use_cache=False).logits[row, column]  # type: ignore[no-any-return]


@torch.no_grad()
def supports_packing(model: PreTrainedModel) -> bool:
    """Whether a packed forward of this model gives the log-probs of its own forward, on four short sequences."""
    whole = unwrap_peft(model)
    head = whole.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or whole.base_model is whole:
        return False
    if any(value for name, value in vars(whole.config).items() if re.search("soft_?cap", name)):
        return False  # near zero, where a new model's logits are, a cap on them could not be told
    size = whole.config.vocab_size
    batch, other = (
        stack([([i % size for i in p], [i % size for i in c]) for p, c in pairs], 0).to(model.device)
        for pairs in (PROBE, PROBE_OTHER_BATCH)
    )
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, enabled=False):  # its rounding is larger than the tolerance
            found, _ = packed(model, batch, 1.0, False, share_prompts=True)
            beside, _ = packed(model, other, 1.0, False, share_prompts=True)
            expected, _ = padded_forward(model, batch, 1.0, False)
    except (TypeError, ValueError, RuntimeError, AttributeError):  # whatever an architecture makes of a layout
        return False
    finally:
        model.train(was_training)
    tolerance = TOLERANCE.get(model.dtype, 0.3)
    mixed = (found - beside)[
        :PROBE_NUM_TOKENS
    ].abs().max() > tolerance / 100  # in a new model a leak is small, but not that small
    return bool((found - expected).abs().max() < tolerance and not mixed)


def unwrap_peft(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model itself, adapters in place, without peft's wrapper around it."""
    unwrapped = getattr(model, "get_base_model", None)
    return unwrapped() if unwrapped else model


def scatter_to_mask(batch: Sequences, values: Tensor) -> Tensor:
    """N values of the completion tokens as (B, T), 0 elsewhere."""
    mask = batch.mask
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values)


def _longest(batch: Sequences) -> int:
    return max(batch.prompt_lengths[p] + n for p, n in zip(batch.prompt_index, batch.lengths, strict=True))
