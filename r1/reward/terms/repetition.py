"""The n-gram repetition penalty of open-r1 (after Yeo et al. 2025)."""

from __future__ import annotations

import re
from typing import Annotated, Any

from annotated_types import Ge, Le

from r1.data.text import HAN

UNIT = re.compile(f"[{HAN}]|[^\\s{HAN}]+")


def repetition(
    prompts: list[str],
    completions: list[str],
    *,
    ngram_size: Annotated[int, Ge(1)],
    max_penalty: Annotated[float, Le(0)],
    **columns: Any,
) -> list[float | None]:
    """``max_penalty`` times the share of n-grams that repeat an earlier one; (B,), in [max_penalty, 0].

    A unit is a word between white space, lower-cased, or one Han character, which needs no spaces. A text
    with fewer than ``ngram_size`` units earns 0. Linear time.
    """
    shares = [repeated_share(completion, ngram_size) for completion in completions]
    return [max_penalty * share if share else 0.0 for share in shares]


def repeated_share(text: str, ngram_size: int) -> float:
    """1 - (different n-grams) / (all n-grams); 0 if there is none."""
    units = UNIT.findall(text.lower())
    ngrams = list(zip(*(units[start:] for start in range(ngram_size)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
