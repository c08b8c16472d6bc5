"""The llama decoder as a CUDA graph: the hundreds of small kernels of a step are launched as one.

On a GPU, launching them one by one takes many times as long as running them. A graph is captured once and replayed with
the same shapes and addresses, which dictates the design:

* Attention reads the full capacity of the rows' buffers, with a bias of -inf at the empty positions.
* Everything that changes between steps is a tensor that the step itself updates in place.
* A new graph is captured when rows leave and when the buffers double.

On other devices the same operations run eagerly, so that tests cover them without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from r1.rollout.decoding.llama_decoder import LlamaDecoder
from r1.rollout.decoding.shared_prefix import DecoderState, LayerCache

FIRST_GRAPH_CAPACITY = 256  # completion tokens of the first buffers


class StaticLayerCache(LayerCache):
    """Buffers of fixed size, written at an index that is a tensor: a Python int would be baked into the graph."""

    def append(self, key: Tensor, value: Tensor, state: DecoderState) -> None:
        assert isinstance(state, StaticState)
        self.keys.index_copy_(2, state.write_position, key[:, :, None])
        self.values.index_copy_(2, state.write_position, value[:, :, None])


@dataclass
class StaticState(DecoderState):
    """A state with the cache position on the device.

    Attributes:
        write_position: (1,) ``cache_position`` as a tensor.
    """

    write_position: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def num_visible(self) -> int:
        return self.capacity

    @property
    def capacity(self) -> int:
        return self.layers[0].keys.shape[2]


class GraphDecoder(LlamaDecoder):
    """A ``Decoder`` whose steps replay a captured step."""

    compact_below = 0.5  # lower than elsewhere: capturing takes as long as tens of steps
    shared_from = 1024  # higher than elsewhere: attention in two parts has more kernels than reading copies has cost
    state: StaticState

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        logits = super().start(prompts, group_sizes)
        self.state = StaticState(**{f.name: getattr(self.state, f.name) for f in fields(DecoderState)})
        self.state.layers = [StaticLayerCache(**vars(layer)) for layer in self.state.layers]
        self._resize(self.state.copied_length + FIRST_GRAPH_CAPACITY)
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        if self.state.cache_position == self.state.capacity:
            self._resize(2 * self.state.capacity)
        if self.graph is None and tokens.is_cuda:
            self._capture()
        self.tokens.copy_(tokens)
        if self.graph is None:
            self._static_step()
        else:
            self.graph.replay()
        self.state.cache_position += 1
        self.num_steps += 1
        return self.logits  # the graph's output buffer: the next replay overwrites it

    def select_rows(self, rows: Tensor) -> None:
        super().select_rows(rows)
        self._allocate_inputs()

    def _resize(self, capacity: int) -> None:
        length = self.state.cache_position
        for layer in self.state.layers:
            layer.keys, layer.values = (
                F.pad(buffer[:, :, :length], (0, 0, 0, capacity - length)) for buffer in (layer.keys, layer.values)
            )
        self._allocate_inputs()

    def _allocate_inputs(self) -> None:
        """Allocate all that a step reads and writes, with its current values; any captured graph becomes invalid."""
        state, device = self.state, self.state.prompt_lengths.device
        is_empty = torch.arange(state.capacity, device=device) >= state.cache_position
        state.empty_bias = self.head.new_zeros(1, 1, state.capacity).masked_fill(is_empty, -torch.inf)
        state.write_position = torch.tensor([state.cache_position], device=device)
        self.tokens = torch.zeros_like(state.prompt_lengths)
        self.positions = state.prompt_lengths + self.num_steps
        # growing the rotary cache during a step would reallocate it
        self.extend_rotary_tables(state.longest_prompt + state.capacity - state.copied_length)
        self.graph: torch.cuda.CUDAGraph | None = None

    def _static_step(self) -> None:
        """One step in tensor operations only: no Python value that changes, no synchronisation."""
        assert self.state.empty_bias is not None
        self.state.empty_bias.index_fill_(2, self.state.write_position, 0)
        self.logits = self.next_logits(self.tokens, self.positions)
        self.positions += 1
        self.state.write_position += 1

    def _capture(self) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # the default stream cannot be captured
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Warm up: libraries allocate their workspaces at the first call, which a capture must not contain. The
            # captured step runs at the first replay, so what this run advanced is undone; its cache entries, made from
            # stale tokens, are overwritten.
            self._static_step()
            self.positions -= 1
            self.state.write_position -= 1
            graph.capture_begin()
            try:
                self._static_step()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = graph
