"""Decoders for any causal LM, made of transformers' own steps of generation; slower than those of r1's own attention.

* ``CachedDecoder``: all rows in one batch, prompts padded on the left.
* ``UnpaddedDecoder``: prompts of each length in a batch of their own, for models whose state or rotation depends on
  padding or on the longest row.
* ``RecomputeDecoder``: as that, and each token reads its whole sequence again, for models without a usable cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from r1.model.transformers_adapter import reset_rotations, unwrap_peft

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CachedDecoder:
    """One batch; the model itself makes its cache, and its own ``prepare_inputs_for_generation`` the inputs."""

    compact_below = 0.8
    use_cache: ClassVar[bool] = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = unwrap_peft(model)

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        length, device = max(map(len, prompts)), self.model.device
        self.input_ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts], device=device)
        self.options: dict[str, Any] = {"use_cache": self.use_cache}  # as ``generate`` carries them from step to step
        columns = torch.arange(length, device=device)
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        mask = (columns >= length - lengths[:, None]).long()
        if min(map(len, prompts)) < length:
            self.options["attention_mask"] = mask
        arguments = inspect.signature(self.model.forward).parameters
        if "position_ids" in arguments:
            self.options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        if "logits_to_keep" in arguments:
            self.options["logits_to_keep"] = 1
        reset_rotations(self.model)
        logits = self._next_logits({"is_first_iteration": True})
        groups = torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(group_sizes, device=device))
        self.select_rows(groups)
        return logits[groups]

    def step(self, tokens: Tensor) -> Tensor:
        self.input_ids = torch.cat([self.input_ids, tokens[:, None]], dim=1)
        return self._next_logits({"next_sequence_length": 1})

    def select_rows(self, rows: Tensor) -> None:
        self.options = select_batch(self.options, rows, len(self.input_ids))
        self.input_ids = self.input_ids[rows]

    def _next_logits(self, stage: dict[str, Any]) -> Tensor:
        """(B, V) logits behind the last token, in a stage of generation as transformers describes it."""
        inputs = self.model.prepare_inputs_for_generation(self.input_ids, **stage, **self.options)
        out = self.model(**inputs, return_dict=True)
        self.options = self.model._update_model_kwargs_for_generation(out, self.options)
        logits: Tensor = out.logits[:, -1]
        return logits


def select_batch(state: Any, rows: Tensor, batch_size: int) -> Any:
    """These rows of every tensor in a nested state; an object, such as a cache or a layer of one, is changed in place.

    Caches have methods for this, but not all of their layers do.
    """
    if isinstance(state, Tensor):
        return state[rows] if state.ndim > 1 and len(state) == batch_size else state
    if isinstance(state, dict):
        return {key: select_batch(value, rows, batch_size) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(select_batch(value, rows, batch_size) for value in state)
    if hasattr(state, "__dict__") and not isinstance(state, type):
        vars(state).update(select_batch(vars(state), rows, batch_size))
    return state


class UnpaddedDecoder:
    """One decoder for the prompts of each length: no row has padding, and all rows of a batch are equally long."""

    compact_below = 0.8
    part_class: ClassVar[type[CachedDecoder]] = CachedDecoder

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.parts: list[tuple[Tensor, CachedDecoder]] = []  # (the rows of this decoder, the decoder)

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        lengths = torch.tensor([len(p) for p in prompts])
        row_lengths = lengths.repeat_interleave(torch.tensor(group_sizes)).to(self.model.device)
        outputs = []
        for length in lengths.unique().tolist():
            chosen = [p for p, prompt in enumerate(prompts) if len(prompt) == length]
            part = self.part_class(self.model)
            outputs.append(part.start([prompts[p] for p in chosen], [group_sizes[p] for p in chosen]))
            self.parts.append(((row_lengths == length).nonzero().squeeze(1), part))
        return self._join(outputs)

    def step(self, tokens: Tensor) -> Tensor:
        return self._join([part.step(tokens[rows]) for rows, part in self.parts])

    def select_rows(self, rows: Tensor) -> None:
        parts, self.parts = self.parts, []
        for of_part, part in parts:
            remaining = torch.isin(of_part, rows).nonzero().squeeze(1)
            if len(remaining):
                part.select_rows(remaining)
                self.parts.append((torch.searchsorted(rows, of_part[remaining]), part))

    def _join(self, outputs: list[Tensor]) -> Tensor:
        """(B, V) logits in the order of the rows."""
        return torch.cat(outputs)[torch.cat([rows for rows, _ in self.parts]).argsort()]


class _Recomputing(CachedDecoder):
    use_cache = False

    def _next_logits(self, stage: dict[str, Any]) -> Tensor:  # noqa: ARG002  (every step is alike)
        length = self.input_ids.shape[1]
        if "position_ids" in self.options:
            self.options["position_ids"] = torch.arange(length, device=self.input_ids.device)[None]
        logits: Tensor = self.model(input_ids=self.input_ids, **self.options).logits[:, -1]
        return logits


class RecomputeDecoder(UnpaddedDecoder):
    part_class = _Recomputing
