"""The metrics of one validation: over all of its completions, and per part of a mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from r1.core.batch import chunks
from r1.core.metrics import METRICS
from r1.core.statistics import Estimate
from r1.stage.validation.metrics import Validation, reward_estimate, sample_metrics
from r1.stage.validation.readability import readability_metrics
from r1.stage.validation.sampling import ValidationCompletions

PER_PART_METRICS = tuple(metric for metric in METRICS if metric.per_part)


def sampling_metrics(
    completions: ValidationCompletions,
    parts: Iterable[str],
    validation: Validation,
    count_tokens: Callable[[list[str]], list[int]],
) -> dict[str, Estimate]:
    """Correctness, rewards, form and readability; ``val/<part>/pass@1`` and others per part of a mixture."""
    metrics = scored_metrics(completions, parts, validation.num_samples, validation.ks)
    texts = [sample.completion for sample in completions.samples]
    return metrics | readability_metrics(texts, validation.num_samples, count_tokens)


def scored_metrics(
    completions: ValidationCompletions, parts: Iterable[str], num_samples: int, ks: Sequence[int]
) -> dict[str, Estimate]:
    """Those that need no tokenizer: correctness, rewards and form, over all completions and per part of a mixture."""
    metrics = overall_metrics(completions, num_samples, ks)
    of_prompts = [row.get("part") for row in completions.rows[::num_samples]]
    for part in parts:
        if prompts := [p for p, name in enumerate(of_prompts) if name == part]:
            part_metrics = overall_metrics(completions.select(prompts), num_samples, ks)
            metrics |= {
                f"val/{part}/{metric.label}": part_metrics[metric.name]
                for metric in PER_PART_METRICS
                if metric.name in part_metrics
            }
    return metrics


def overall_metrics(completions: ValidationCompletions, num_samples: int, ks: Sequence[int]) -> dict[str, Estimate]:
    """Correctness, form, and each reward term; the total reward where some question has no gold answer."""
    samples, scores = completions.samples, completions.scores
    metrics = sample_metrics(chunks(samples, num_samples), ks, completions.greedy)
    values = {f"val/reward/{name}": values for name, values in scores.terms.items()}
    values |= {"val/reward": scores.total} if any(sample.correct is None for sample in samples) else {}
    rewards = {name: reward_estimate(term_values, num_samples) for name, term_values in values.items()}
    return metrics | {name: estimate for name, estimate in rewards.items() if estimate}
