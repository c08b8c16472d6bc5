"""From a batch of sequences to the log-probability and entropy of each completion token.

Rollout, trainer, reference and teacher log-probs all come from here, or from a decoder that is compared with it. The
sampling temperature is applied to all of them, so that the ratio of two equal policies is 1.

Shapes: B completions of up to T tokens, N completion tokens in all, V vocabulary, E size of the hidden states.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from r1.core.errors import UserError
from r1.model.functional import token_entropy, token_logps
from r1.model.fused_divergence import Divergence, head_divergence, logits_divergence
from r1.model.fused_logprobs import head_logps
from r1.model.logit_scale import LogitScale, logit_scale
from r1.model.packing import attention, pack
from r1.model.router_loss import router_loss_weight
from r1.model.sequences import Sequences, stack
from r1.model.transformers_adapter import (
    body,
    custom_attention,
    exceeds_fixed_rope,
    is_sharded,
    output_layer,
    reset_rotations,
    unwrap_peft,
)
from r1.model.twin import twin_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}  # of a log-prob; a wrong mask is off by more
PROBE = [([3, 5, 7], [11, 2, 13, 4]), ([3, 5, 7], [17]), ([6, 2, 9, 8, 5], [12, 3]), ([6, 2, 9, 8, 5], [4, 4, 10])]
# the first prompt of PROBE with its completions, packed with other sequences
PROBE_OTHER_BATCH = [*PROBE[:2], ([1, 7, 4, 3, 10], [5, 14]), ([1, 7, 4, 3, 10], [8, 1, 6])]
PROBE_NUM_TOKENS = 5  # completion tokens of the first prompt
Pair = tuple[list[int], list[int]]  # prompt and completion
_supports_padding: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


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

    def can_pack(self, model: PreTrainedModel, batch: Sequences) -> bool:
        """Whether packing gives the model's own results for this batch; probed once per model."""
        if model not in self._can_pack:
            self._can_pack[model] = supports_packing(model)
            if not self._can_pack[model]:
                warnings.warn(
                    f"{type(model).__name__} does not support packed sequences: training with padding", stacklevel=2
                )
        config = model.config
        # the model's own forward computes the router loss
        return (
            self._can_pack[model]
            and not exceeds_fixed_rope(config, _max_length(batch))
            and not router_loss_weight(config)
        )


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
    """(N, V) logits that predict the completion tokens, from one row per completion, padded on the right.

    Where padding or a longer row would change a row, rows of each length go through the model by themselves.

    Raises:
        UserError: so they would, and the model is sharded.
    """
    by_length = len(batch) > 1 and not supports_padding(model, _max_length(batch))
    if by_length and is_sharded(model):
        raise UserError(
            f"{type(model).__name__} cannot be padded, and shards need as many passes on every rank",
            key="strategy",
            expected="single or ddp",
            hint="strategy=ddp: each rank then passes the lengths of its own rows",
        )
    return _row_logits(model, batch, by_length)


def _row_logits(model: PreTrainedModel, batch: Sequences, by_length: bool) -> Tensor:
    prompts = [batch.prompt_ids[p, : batch.prompt_lengths[p]] for p in batch.prompt_index]
    rows = [torch.cat([p, c[:n]]) for p, c, n in zip(prompts, batch.completion_ids, batch.lengths, strict=True)]
    lengths = list(map(len, rows))
    groups = (
        [[b for b, n in enumerate(lengths) if n == length] for length in set(lengths)]
        if by_length
        else [range(len(rows))]
    )
    logits: dict[int, Tensor] = {}
    for group in groups:
        reset_rotations(model)
        input_ids = nn.utils.rnn.pad_sequence([rows[b] for b in group], batch_first=True)
        options = {}
        if router_loss_weight(model.config):  # padding does not count there
            options["attention_mask"] = nn.utils.rnn.pad_sequence([torch.ones_like(rows[b]) for b in group], True)
        out = model(input_ids=input_ids, use_cache=False, **options).logits
        for i, b in enumerate(group):
            logits[b] = out[i, len(prompts[b]) - 1 : lengths[b] - 1][batch.mask[b, : batch.lengths[b]]]
    return torch.cat([logits[b] for b in range(len(rows))])


@torch.no_grad()
def supports_padding(model: PreTrainedModel, length: int) -> bool:
    """Whether rows of up to ``length`` tokens can be padded on the right; tried once on the model's twin."""
    if exceeds_fixed_rope(model.config, length):
        return False
    if model not in _supports_padding:
        twin = twin_of(model.config)
        _supports_padding[model] = twin is None or _pads_alike(twin)
        if not _supports_padding[model]:
            name = type(model).__name__
            warnings.warn(f"{name} does not support padding: sequences of each length are trained apart", stacklevel=2)
    return _supports_padding[model]


def _pads_alike(model: PreTrainedModel) -> bool:
    pairs = _probe_pairs(model, PROBE)
    with torch.autocast("cpu", enabled=False):
        together = _row_logits(model, stack(pairs, 0), by_length=False)
        alone = torch.cat([_row_logits(model, stack([pair], 0), by_length=True) for pair in pairs])
    return bool((together.log_softmax(-1) - alone.log_softmax(-1)).abs().max() < TOLERANCE[torch.float32])


def _probe_pairs(model: PreTrainedModel, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with token ids of the model's vocabulary."""
    size = model.config.get_text_config().vocab_size
    return [([i % size for i in prompt], [i % size for i in completion]) for prompt, completion in pairs]


def supports_packing(model: PreTrainedModel) -> bool:
    """Whether a packed forward gives the log-probs of the model's own forward, on four short sequences.

    It is tried on the model's twin, which shows small differences in any precision, and on the model itself.
    """
    twin = twin_of(model.config)
    return _packs_alike(model) and (twin is None or _packs_alike(twin))


@torch.no_grad()
def _packs_alike(model: PreTrainedModel) -> bool:
    unwrapped = unwrap_peft(model)
    head = output_layer(model)
    if type(head) is not nn.Linear or head.bias is not None or body(unwrapped) is unwrapped:
        return False
    batch, other_batch = (
        stack(_probe_pairs(unwrapped, pairs), 0).to(model.device) for pairs in (PROBE, PROBE_OTHER_BATCH)
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
    except Exception:  # an architecture may fail in any way
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


def _max_length(batch: Sequences) -> int:
    return max(batch.prompt_lengths[p] + n for p, n in zip(batch.prompt_index, batch.lengths, strict=True))
