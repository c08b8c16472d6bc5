"""Readability of the thinking, from its text alone: language consistency, reflection, length.

``val/language``: the share of words in the thinking's most frequent language. It needs no target language, so runs with
and without a language reward can be compared; the share of a reward's target language is ``val/reward/language``.
Thinking without a word has no language and is left out; ``n`` is the number of completions that remain.
``val/reflection``: the paper's ten reflective words, occurrences per completion.
``val/thinking_length``: tokens between the think tags, 0 without tags; the text is tokenized again for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from r1.core.batch import chunks
from r1.core.statistics import Estimate, mean, proportion
from r1.data.completion import parse
from r1.data.text import words

# The reflective words that DeepSeek-R1 (2501.12948) counts: whole words in any case.
REFLECTIVE = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")
REFLECTION = re.compile(rf"\b(?:{'|'.join(REFLECTIVE)})\b", re.IGNORECASE)


def readability_metrics(
    completions: Sequence[str], num_samples: int, count_tokens: Callable[[list[str]], list[int]]
) -> dict[str, Estimate]:
    """The three metrics of P prompts with ``num_samples`` completions each, one prompt after the other.

    Args:
        count_tokens: the lengths of texts in tokens.
    """
    thinking = list(map(_thinking, completions))
    lengths = chunks(count_tokens(thinking), num_samples)
    reflections = chunks(list(map(num_reflections, completions)), num_samples)
    shares = [[s for s in group if s is not None] for group in chunks(list(map(consistency, thinking)), num_samples)]
    metrics = {
        "val/reflection": mean([sum(g) / num_samples for g in reflections], num_samples, lowest=0.0),
        "val/thinking_length": mean([sum(g) / num_samples for g in lengths], num_samples, lowest=0.0),
    }
    if count := sum(map(len, shares)):
        means = [sum(group) / len(group) for group in shares if group]
        language = proportion(means, max(1, count // len(means)))
        metrics = {"val/language": replace(language, n=count)} | metrics
    return metrics


def readability_of(completion: str) -> tuple[float | None, int]:
    """Language consistency of the thinking (None without a word), and the completion's reflective words."""
    return consistency(_thinking(completion)), num_reflections(completion)


def train_readability(pairs: Sequence[tuple[float | None, int]]) -> dict[str, float]:
    """``train/language`` and ``train/reflection`` of a batch of ``readability_of``; no language without words."""
    shares = [share for share, _ in pairs if share is not None]
    metrics = {"train/reflection": sum(count for _, count in pairs) / len(pairs)}
    return metrics | ({"train/language": sum(shares) / len(shares)} if shares else {})


def consistency(text: str) -> float | None:
    """Share of the words that are in the text's most frequent language, above 0 to 1; None if there is no word."""
    counts = Counter(words(text))
    return max(counts.values()) / counts.total() if counts else None


def num_reflections(text: str) -> int:
    """How often one of the ten reflective words occurs. English only; a question about waiting has them anyway."""
    return sum(1 for _ in REFLECTION.finditer(text))


def _thinking(completion: str) -> str:
    return parse(completion).thinking or ""
