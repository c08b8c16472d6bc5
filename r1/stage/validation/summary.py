"""The metrics of one validation: over all of its completions, per part of a mixture, and per value of a column."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from r1.core.batch import chunks
from r1.core.metrics import METRICS
from r1.core.statistics import Estimate
from r1.data.base import Row
from r1.stage.validation.metrics import Validation, reward_estimate, sample_metrics
from r1.stage.validation.readability import readability_metrics
from r1.stage.validation.sampling import ValidationCompletions

PER_PART_METRICS = tuple(metric for metric in METRICS if metric.per_part)


def sampling_metrics(
    completions: ValidationCompletions,
    parts: Collection[str],
    validation: Validation,
    count_tokens: Callable[[list[str]], list[int]],
) -> dict[str, Estimate]:
    """Correctness, rewards, form and readability."""
    texts = [sample.completion for sample in completions.samples]
    readability = readability_metrics(texts, validation.num_samples, count_tokens)
    return scored_metrics(completions, parts, validation) | readability


def scored_metrics(
    completions: ValidationCompletions, parts: Collection[str], validation: Validation
) -> dict[str, Estimate]:
    """Those that need no tokenizer: correctness, rewards and form.

    ``val/<part>/pass@1`` and others per part of a mixture, and ``val/<column>=<value>/pass@1`` for the columns ``by``.
    """
    num_samples, ks = validation.num_samples, validation.ks
    metrics = overall_metrics(completions, num_samples, ks)
    for name, prompts in prompt_groups(completions.rows[::num_samples], parts, validation.by).items():
        group_metrics = overall_metrics(completions.select(prompts), num_samples, ks)
        metrics |= {
            f"val/{name}/{metric.label}": group_metrics[metric.name]
            for metric in PER_PART_METRICS
            if metric.name in group_metrics and ("=" not in name or metric.better)
        }
    return metrics


def prompt_groups(rows: Sequence[Row], parts: Collection[str], by: Sequence[str]) -> dict[str, list[int]]:
    """The prompts of each part of a mixture, and of each value of the columns ``by``."""
    groups: dict[str, list[int]] = {name: [] for name in parts}
    for p, row in enumerate(rows):
        if parts:
            groups[row["part"]].append(p)
        for column in by:
            if row.get(column) is not None:
                groups.setdefault(value_label(column, row[column]), []).append(p)
    names = [*parts, *sorted(groups.keys() - set(parts))]
    return {name: groups[name] for name in names if groups[name]}


def value_label(column: str, value: Any) -> str:
    """``level=3``: a slash would end a metric's group."""
    return f"{column}={str(value).replace('/', '_')}"


def overall_metrics(completions: ValidationCompletions, num_samples: int, ks: Sequence[int]) -> dict[str, Estimate]:
    """Correctness, form, and each reward term; the total reward where some question has no gold answer."""
    samples, scores = completions.samples, completions.scores
    metrics = sample_metrics(chunks(samples, num_samples), ks, completions.greedy)
    values = {f"val/reward/{name}": values for name, values in scores.terms.items()}
    values |= {"val/reward": scores.total} if any(sample.correct is None for sample in samples) else {}
    rewards = {name: reward_estimate(term_values, num_samples) for name, term_values in values.items()}
    return metrics | {name: estimate for name, estimate in rewards.items() if estimate}
