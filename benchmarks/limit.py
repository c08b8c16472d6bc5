"""The time that a GRPO step's matrix products alone take on this machine: no trainer can be faster without doing less.

Counted are 2 operations per parameter and token in the rollout and 6 in training, the prompt's tokens once per group;
attention, softmax and the optimizer are left out, so the true limit is higher. The rate is measured with the model's
own shapes: as many rows as there are completions for decoding, up to ``MAX_ROWS`` for training.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from workloads import Size, Workload

from r1.rollout.decoding.onednn import linear_fn

MAX_ROWS = 1024
REPEATS, MIN_S = 5, 0.05

Shape = tuple[int, int]


def step_limit(workload: Workload, size: Size, tokens: float, device: str) -> dict[str, float]:
    """The limit for a step of ``tokens`` completion tokens, and the rates behind it.

    The head (the output matrix) is only needed for tokens that are predicted.
    """
    body, head = shapes(size)
    prompts = workload.prompts * workload.prompt_tokens
    operations = 2 * (sum_of(body) * size.layers * (prompts + tokens) + sum_of([head]) * tokens)
    decode = rate(body, head, size.layers, workload.prompts * workload.group, device)
    train = rate(body, head, size.layers, MAX_ROWS, device)
    return {
        "step_s": operations / decode + 3 * operations / train,
        "gflops_decode": decode / 1e9,
        "gflops_train": train / 1e9,
    }


def shapes(size: Size) -> tuple[list[Shape], Shape]:
    """(in, out) of one layer's matrices, and of the head."""
    fields = size.fields()
    width, inner = fields["hidden_size"], fields["intermediate_size"]
    shared = width // fields["num_attention_heads"] * fields["num_key_value_heads"]
    layer = [(width, width), (width, 2 * shared), (width, width), (width, 2 * inner), (inner, width)]
    return layer, (width, fields["vocab_size"])


def sum_of(matrices: list[Shape]) -> int:
    return sum(rows * columns for rows, columns in matrices)


def rate(body: list[Shape], head: Shape, layers: int, rows: int, device: str) -> float:
    """Operations per second of one forward pass's products over ``rows`` tokens."""
    seconds = layers * sum(product_s(shape, rows, device) for shape in body) + product_s(head, rows, device)
    return 2 * rows * (layers * sum_of(body) + sum_of([head])) / seconds


def product_s(shape: Shape, rows: int, device: str) -> float:
    """The best time of one product: torch's into memory that is there already, or on a CPU r1's, by oneDNN."""
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    states = torch.randn(rows, shape[0], device=device, dtype=kind)
    weight = torch.randn(shape[1], shape[0], device=device, dtype=kind)
    out, multiply = torch.empty(rows, shape[1], device=device, dtype=kind), linear_fn(weight)
    return min(best(lambda: torch.mm(states, weight.T, out=out), device), best(lambda: multiply(states), device))


def best(work: Callable[[], object], device: str) -> float:
    """The shortest of ``REPEATS`` times, each the mean of as many calls as fill ``MIN_S``."""
    calls = 1
    while (seconds := timed(work, calls, device)) < MIN_S:
        calls = max(calls + 1, int(calls * MIN_S / seconds * 1.2))
    return min(timed(work, calls, device) for _ in range(REPEATS)) / calls


def timed(work: Callable[[], object], calls: int, device: str) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
