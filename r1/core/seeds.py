"""Every random draw has a key: it does not matter what was drawn before it, on which device, or in which batch."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(*parts: str | int) -> int:
    """A seed that is a pure function of ``parts``, e.g. ``key(seed, "rollout", step, prompt_id, sample)``."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uniforms(seeds: list[int], length: int) -> torch.Tensor:
    """(B, length) numbers in [0, 1): row b is a function of ``seeds[b]`` alone, column t is its position t."""
    import torch

    rows = [torch.rand(length, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
    return torch.stack(rows)


def batch_indices(seed: int, step: int, batch_size: int, num_examples: int) -> list[int]:
    """Which examples step ``step`` uses: the next ``batch_size`` of a permutation that is keyed by the epoch."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [_permutation(seed, p // num_examples, num_examples)[p % num_examples] for p in positions]


@lru_cache(maxsize=2)  # a step touches one epoch, or the end of one and the start of the next
def _permutation(seed: int, epoch: int, num_examples: int) -> list[int]:
    import torch

    generator = torch.Generator().manual_seed(derive_seed(seed, "permutation", epoch))
    return torch.randperm(num_examples, generator=generator).tolist()  # type: ignore[no-any-return]
