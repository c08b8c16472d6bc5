"""The metrics of one validation: over all of its completions, and per part of a mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from r1.core.batch import chunks
from r1.core.metrics import METRICS
from r1.core.statistics import Estimate
from r1.reward.base import Scores
from r1.stage.validation.metrics import Sample, Validation, reward_estimate, sample_metrics
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
    samples, scores = completions.samples, completions.scores
    num_samples, ks = validation.num_samples, validation.ks
    metrics = overall_metrics(samples, scores, num_samples, ks)
    for part in parts:
        if of_part := [b for b, row in enumerate(completions.rows) if row["part"] == part]:
            part_metrics = overall_metrics([samples[b] for b in of_part], scores.part(of_part), num_samples, ks)
            metrics |= {
                f"val/{part}/{metric.label}": part_metrics[metric.name]
                for metric in PER_PART_METRICS
                if metric.name in part_metrics
            }
    return metrics | readability_metrics([sample.completion for sample in samples], num_samples, count_tokens)


def overall_metrics(
    samples: Sequence[Sample], scores: Scores, num_samples: int, ks: Sequence[int]
) -> dict[str, Estimate]:
    """Correctness, form, and each reward term; the total reward where some question has no gold answer."""
    metrics = sample_metrics(chunks(samples, num_samples), ks)
    values = {f"val/reward/{name}": values for name, values in scores.terms.items()}
    values |= {"val/reward": scores.total} if any(sample.correct is None for sample in samples) else {}
    rewards = {name: reward_estimate(term_values, num_samples) for name, term_values in values.items()}
    return metrics | {name: estimate for name, estimate in rewards.items() if estimate}
