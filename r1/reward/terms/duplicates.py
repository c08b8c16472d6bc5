"""Similarity to an earlier completion of the same prompt: Jaccard similarity of n-grams (Broder 1997)."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge

from r1.data.completion import normalise
from r1.reward.terms.repetition import UNIT

NGram = tuple[str, ...]


def duplicates(
    prompts: list[str], completions: list[str], *, ngram_size: Annotated[int, Ge(1)], **columns: Any
) -> list[float | None]:
    """The highest similarity to an earlier completion of the same prompt in the batch, 0 to 1; (B,).

    Similarity is the n-grams that two texts share over all that either has, each counted once; texts that differ
    in case, spacing or invisible characters have 1. Quadratic in the completions of one prompt.
    """
    earlier: dict[str, list[set[NGram]]] = {}
    values: list[float | None] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        current, others = ngrams(completion, ngram_size), earlier.setdefault(prompt, [])
        values.append(max((len(current & other) / len(current | other) for other in others), default=0.0))
        others.append(current)
    return values


def ngrams(text: str, size: int) -> set[NGram]:
    """The different n-grams of a text; a text with fewer than ``size`` units is one n-gram. Never empty."""
    units = UNIT.findall(normalise(text).lower())
    return {tuple(units[start : start + size]) for start in range(max(len(units) - size + 1, 1))}
