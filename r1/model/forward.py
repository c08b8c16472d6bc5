"""From a batch of sequences to the log-probability and entropy of each completion token.

Rollout, trainer, reference and teacher log-probs all come from here, or from a decoder that is compared with it. The
sampling temperature is applied to all of them, so that the ratio of two equal policies is 1.

Shapes: B completions of up to T tokens, N completion tokens in all, V vocabulary, E size of the hidden states.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from r1.model.functional import token_entropy, token_logps
from r1.model.fused_divergence import Divergence, head_divergence, logits_divergence
from r1.model.fused_logprobs import head_logps
from r1.model.logit_scale import LogitScale, logit_scale
from r1.model.packing import attention, pack
from r1.model.sequences import Sequences, stack
from r1.model.transformers_adapter import body, custom_attention, output_layer, unwrap_peft

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}  # of a log-prob; a wrong mask is off by more
PROBE = [([3, 5, 7], [11, 2, 13, 4]), ([3, 5, 7], [17]), ([6, 2, 9, 8, 5], [12, 3]), ([6, 2, 9, 8, 5], [4, 4, 10])]
# the first prompt of PROBE with its completions, packed with other sequences
PROBE_OTHER_BATCH = [*PROBE[:2], ([1, 7, 4, 3, 10], [5, 14]), ([1, 7, 4, 3, 10], [8, 1, 6])]
PROBE_NUM_TOKENS = 5  # completion tokens of the first prompt


class Forward:
    """How the policy is applied to a batch; neither option can change the result beyond rounding.

    Args:
        packing: all tokens in one row without padding, and the output layer applied in tiles. False: the model's own
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
            logps, entropy = packed_forward(model, batch, temperature, entropy_gradient, self.share_prompts)
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
        """The divergence of ``model`` from ``teacher`` at each completion token, over the whole vocabulary.

        Returns:
            (B, T) divergences at ``temperature`` in nats, and with ``want_logps`` (B, T) log-probabilities of the
            completion tokens under ``model`` at temperature 1; both float32, 0 behind a completion's end. Only
            ``model`` has a gradient.
        """
        targets, logps = batch.completion_ids[batch.mask], None
        if self.packing and self.can_pack(model, batch) and self.can_pack(teacher, batch):
            hidden_states, weight = packed_hidden_states(model, batch, self.share_prompts)
            with torch.no_grad():
                teacher_head = packed_hidden_states(teacher, batch, self.share_prompts)
            caps = logit_cap(model, temperature), logit_cap(teacher, temperature)
            divergences = head_divergence(hidden_states, weight, *teacher_head, temperature, divergence, caps=caps)
            if want_logps:
                logps, _ = head_logps(hidden_states, weight, targets, 1.0, cap=logit_cap(model, 1.0))
        else:
            logits = padded_logits(model, batch)
            with torch.no_grad():
                teacher_logits = padded_logits(teacher, batch)
            divergences = logits_divergence(logits, teacher_logits, temperature, divergence)
            if want_logps:
                logps = token_logps(logits, targets, 1.0)
        return scatter_to_mask(batch, divergences), None if logps is None else scatter_to_mask(batch, logps)

    def can_pack(self, model: PreTrainedModel, batch: Sequences) -> bool:  # noqa: ARG002
        """Whether packing gives the model's own results for this batch; probed once per model."""
        if model not in self._can_pack:
            self._can_pack[model] = supports_packing(model)
            if not self._can_pack[model]:
                warnings.warn(
                    f"{type(model).__name__} does not support packed sequences: training with padding", stacklevel=2
                )
        return self._can_pack[model]


def packed_forward(
    model: PreTrainedModel, batch: Sequences, temperature: float, entropy_gradient: bool, share_prompts: bool
) -> tuple[Tensor, Tensor]:
    """(N,) log-probabilities and entropies from one packed row and the output layer in tiles."""
    hidden_states, weight = packed_hidden_states(model, batch, share_prompts)
    targets, cap = batch.completion_ids[batch.mask], logit_cap(model, temperature)
    return head_logps(hidden_states, weight, targets, temperature, entropy_gradient, cap=cap)


def packed_hidden_states(model: PreTrainedModel, batch: Sequences, share_prompts: bool) -> tuple[Tensor, Tensor]:
    """(N, E) last hidden states that predict the completion tokens, and the (V, E) weight of the output layer.

    Their products are the logits, soft caps apart: the factor of models that scale them is in the hidden states.
    """
    layout = pack(batch, share_prompts)
    unwrapped = unwrap_peft(model)
    with custom_attention(model, attention, layout):
        out = body(unwrapped)(
            input_ids=layout.input_ids,
            attention_mask=torch.ones_like(layout.input_ids),
            position_ids=layout.position_ids,
            use_cache=False,
        )
    # as an embedding lookup: the same as indexing, with a much faster gradient
    hidden_states = nn.functional.embedding(layout.sources, out.last_hidden_state[0])
    factor = (logit_scale(model) or LogitScale()).factor
    return hidden_states if factor == 1 else hidden_states * factor, output_layer(model).weight


def logit_cap(model: PreTrainedModel, temperature: float) -> float | None:
    """The bound of the logits / temperature; None: they have none."""
    cap = (logit_scale(model) or LogitScale()).cap
    return None if cap is None else cap / temperature


def padded_forward(
    model: PreTrainedModel, batch: Sequences, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """(N,) log-probabilities and entropies from the model's own forward."""
    logits = padded_logits(model, batch)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = token_entropy(logits, temperature)
    return token_logps(logits, batch.completion_ids[batch.mask], temperature), entropy


def padded_logits(model: PreTrainedModel, batch: Sequences) -> Tensor:
    """(N, V) logits that predict the completion tokens, from one row per completion, padded on the right."""
    prompts = [batch.prompt_ids[p, : batch.prompt_lengths[p]] for p in batch.prompt_index]
    rows = [torch.cat([p, c[:n]]) for p, c, n in zip(prompts, batch.completion_ids, batch.lengths, strict=True)]
    input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    row, token = batch.mask.nonzero(as_tuple=True)
    before = torch.tensor([len(prompt) - 1 for prompt in prompts], device=input_ids.device)
    return model(input_ids=input_ids, use_cache=False).logits[row, before[row] + token]  # type: ignore[no-any-return]


@torch.no_grad()
def supports_packing(model: PreTrainedModel) -> bool:
    """Whether a packed forward of this model gives the log-probs of its own forward, on four short sequences."""
    unwrapped = unwrap_peft(model)
    head = output_layer(model)
    if type(head) is not nn.Linear or head.bias is not None or body(unwrapped) is unwrapped:
        return False
    size = unwrapped.config.vocab_size
    batch, other_batch = (
        stack([([i % size for i in p], [i % size for i in c]) for p, c in pairs], 0).to(model.device)
        for pairs in (PROBE, PROBE_OTHER_BATCH)
    )
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, enabled=False):  # autocast rounds by more than the tolerance
            if logit_scale(model) is None:
                return False
            logps, _ = packed_forward(model, batch, 1.0, False, share_prompts=True)
            other_logps, _ = packed_forward(model, other_batch, 1.0, False, share_prompts=True)
            expected, _ = padded_forward(model, batch, 1.0, False)
    except (TypeError, ValueError, RuntimeError, AttributeError):  # an architecture may fail in any way
        return False
    finally:
        model.train(was_training)
    tolerance = TOLERANCE.get(model.dtype, 0.3)
    # Sequences of the same row must not influence each other. In a new model such a leak is far below the tolerance,
    # but it still changes the first sequences' log-probs when the others change.
    leak = (logps - other_logps)[:PROBE_NUM_TOKENS].abs().max()
    return bool((logps - expected).abs().max() < tolerance and not leak > tolerance / 100)


def scatter_to_mask(batch: Sequences, values: Tensor) -> Tensor:
    """(N,) values of the completion tokens as (B, T), 0 elsewhere."""
    mask = batch.mask
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values)
