"""The lean decoder as a CUDA graph: the hundreds of small kernels that a token takes are launched as one.

On a GPU, launching them one by one takes many times as long as running them. A graph is fixed in its shapes and
addresses: attention looks at the whole of the rows' buffers, -inf where they are still empty, and another graph is
recorded when rows leave and when the buffers double. On other devices the same operations run as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from r1.rollout.decoding.llama_decoder import LlamaDecoder
from r1.rollout.decoding.shared_prefix import Layer, State

CAPACITY = 256  # completion tokens that the first buffers hold


class FixedLayer(Layer):
    """Buffers that are written where a tensor says: a graph has no other way to move on."""

    def append(self, key: Tensor, value: Tensor, state: State) -> None:
        assert isinstance(state, FixedState)
        self.keys.index_copy_(2, state.next_place, key[:, :, None])
        self.values.index_copy_(2, state.next_place, value[:, :, None])


@dataclass
class FixedState(State):
    """``next_place``: (1,) where the next token goes in the rows' buffers."""

    next_place: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def seen(self) -> int:
        return self.capacity

    @property
    def capacity(self) -> int:
        return self.layers[0].keys.shape[2]


class GraphDecoder(LlamaDecoder):
    """Steps by replaying a recorded step."""

    compact_below = 0.5  # recording takes as long as tens of steps
    shared_from = 1024  # until then reading copies takes less than the kernels of attention in two parts
    state: FixedState

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        logits = super().start(prompts, group_sizes)
        self.state = FixedState(**{part.name: getattr(self.state, part.name) for part in fields(State)})
        self.state.layers = [FixedLayer(**vars(layer)) for layer in self.state.layers]
        self._enlarge(self.state.copied + CAPACITY)
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        if self.state.filled == self.state.capacity:
            self._enlarge(2 * self.state.capacity)
        if self.graph is None and tokens.is_cuda:
            self._record()
        self.tokens.copy_(tokens)
        if self.graph is None:
            self._advance()
        else:
            self.graph.replay()
        self.state.filled += 1
        self.length += 1
        return self.logits

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self._fix()

    def _enlarge(self, capacity: int) -> None:
        filled = self.state.filled
        for layer in self.state.layers:
            layer.keys, layer.values = (
                F.pad(buffer[:, :, :filled], (0, 0, 0, capacity - filled)) for buffer in (layer.keys, layer.values)
            )
        self._fix()

    def _fix(self) -> None:
        """Everything a recorded step reads and writes, as it stands now."""
        state, device = self.state, self.lengths.device
        empty = torch.arange(state.capacity, device=device) >= state.filled
        state.unseen = self.head.new_zeros(1, 1, state.capacity).masked_fill(empty, -torch.inf)
        state.next_place = torch.tensor([state.filled], device=device)
        self.tokens, self.positions = torch.zeros_like(self.lengths), self.lengths + self.length
        self.extend_rotary_cache(self.longest_prompt + state.capacity - state.copied)
        self.graph: torch.cuda.CUDAGraph | None = None

    def _advance(self) -> None:
        """One step, in tensors alone."""
        assert self.state.unseen is not None
        self.state.unseen.index_fill_(2, self.state.next_place, 0)
        self.logits = self.next_logits(self.tokens, self.positions)
        self.positions += 1
        self.state.next_place += 1

    def _record(self) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._advance()  # libraries set themselves up, which no graph may hold; the step itself is made again
            self.positions -= 1
            self.state.next_place -= 1
            graph.capture_begin()
            try:
                self._advance()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = graph
