"""Random numbers with keys: a draw depends on its key alone, not on earlier draws, the device or the batch.

So a prompt gets the same completion after a resume, in another batch, and on any number of devices. A global generator
would tie every draw to all draws before it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(*parts: str | int) -> int:
    """A seed that is a function of ``parts`` alone, e.g. ``derive_seed(seed, "rollout", step, prompt_id, sample)``."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # 63 bits: generators take signed 64-bit seeds


def uniforms(seeds: list[int], length: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), (B, length) float64: row b depends on ``seeds[b]`` alone, column t is position t."""
    import torch

    rows = [torch.rand(length, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
    return torch.stack(rows)


def batch_indices(seed: int, step: int, batch_size: int, num_examples: int) -> list[int]:
    """The examples of optimizer step ``step``: the next ``batch_size`` of a permutation, a new one for every epoch.

    A function of its arguments alone, so a run resumes at any step without replaying the steps before.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [_permutation(seed, p // num_examples, num_examples)[p % num_examples] for p in positions]


@lru_cache(maxsize=2)  # a step touches one epoch, or the end of one and the start of the next
def _permutation(seed: int, epoch: int, num_examples: int) -> list[int]:
    import torch

    generator = torch.Generator().manual_seed(derive_seed(seed, "permutation", epoch))
    return torch.randperm(num_examples, generator=generator).tolist()  # type: ignore[no-any-return]
