"""Rotary position embeddings for decoding: one table per model, whichever dimensions its rotation pairs.

A rotation maps (x1, x2) to (x1 cos - x2 sin, x2 cos + x1 sin). With the sign in the sines this is
``x cos + partner(x) sin``: no negation and no concatenation per token. Pairs and factors are those of the model's own
function, which is applied to vectors of zeros and ones; dimensions that it leaves alone have cosine 1.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROTARY_CHUNK = 256  # positions by which the table grows


class RotaryTable:
    """Cosines and signed sines of one kind of layers, (positions, 2, D).

    Args:
        rotary_emb: the model's module that gives cosines and sines, as its layers' function expects them.
        attention: a layer's attention module.
        layer_type: an argument of ``rotary_emb`` where it distinguishes layers.
        like: any tensor of the model; gives dtype and device.
    """

    def __init__(self, rotary_emb: Any, attention: Any, head_dim: int, layer_type: str, like: Tensor) -> None:
        self.rotary_emb, self.head_dim, self.like = rotary_emb, head_dim, like
        by_type = "layer_type" in inspect.signature(type(rotary_emb).forward).parameters
        self.kwargs = {"layer_type": layer_type} if by_type else {}
        self.function: Callable[..., tuple[Tensor, Tensor]] = sys.modules[
            type(attention).__module__
        ].apply_rotary_pos_emb
        self.table = like.new_empty(0)
        self.partners = self._partners()
        half = torch.arange(head_dim, device=like.device).roll(head_dim // 2)
        self.pairs_halves = bool((self.partners == half).all())

    def extend(self, length: int) -> None:
        """Make the table cover at least ``length`` positions."""
        if length <= len(self.table):
            return
        size = length + ROTARY_CHUNK
        is_first = torch.arange(self.head_dim, device=self.like.device) <= self.partners
        first, second = (mask.to(self.like.dtype).expand(1, 1, size, -1) for mask in (is_first, ~is_first))
        of_first, of_second = self._rotate(first, second, torch.arange(size, device=self.like.device)[None])
        cos, sin = torch.where(is_first, of_first, of_second), torch.where(is_first, of_second, of_first)
        self.table = torch.stack([cos[0, 0], sin[0, 0]], dim=1)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, D) cosines and signed sines at (B,) positions."""
        rows = self.table[positions]
        return rows[:, :1], rows[:, 1:]

    def apply(self, states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """(B, heads, D) queries or keys, rotated."""
        cos, sin = rotary
        partners = (
            states.roll(self.head_dim // 2, dims=2) if self.pairs_halves else states.index_select(2, self.partners)
        )
        return torch.addcmul(states * cos, partners, sin)

    def _partners(self) -> Tensor:
        """(D,) the dimension that each is paired with; itself where it is not rotated."""
        eye = torch.eye(self.head_dim, dtype=self.like.dtype, device=self.like.device)
        ones = torch.ones(1, self.head_dim, dtype=torch.long, device=self.like.device)
        mixed = self._rotate(eye[None, None], eye[None, None], ones)[0][0, 0].fill_diagonal_(0).abs()
        largest, index = mixed.max(0)
        return torch.where(largest > 0, index, torch.arange(self.head_dim, device=index.device))

    def _rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 1, L, D) queries and keys at (1, L) positions."""
        cos, sin = self.rotary_emb(self.like, position_ids=positions, **self.kwargs)
        try:
            return self.function(query, key, cos, sin)
        except RuntimeError:  # it takes the rotated dimensions alone
            size = cos.shape[-1]
            rotated = self.function(query[..., :size], key[..., :size], cos, sin)
            parts = [torch.cat([r, x[..., size:]], dim=-1) for r, x in zip(rotated, (query, key), strict=True)]
            return parts[0], parts[1]
