"""The figures of one validation: of all its completions, and of each part of a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from r1.core.metrics import METRICS
from r1.core.statistics import Estimate
from r1.data.base import Row
from r1.reward.base import Scores
from r1.stage.validation.metrics import Sample, reward, summarise

PER_PART_METRICS = tuple(metric for metric in METRICS if metric.per_part)


def validation_metrics(
    rows: Sequence[Row],
    samples: Sequence[Sample],
    scores: Scores,
    parts: Iterable[str],
    num_samples: int,
    ks: Sequence[int],
) -> dict[str, Estimate]:
    """Of completions that stand ``num_samples`` in a row for each prompt; ``val/<part>/pass@1`` for a part's own."""
    found = overall_metrics(samples, scores, num_samples, ks)
    for part in parts:
        if mine := [b for b, row in enumerate(rows) if row["part"] == part]:
            own = overall_metrics([samples[b] for b in mine], scores.part(mine), num_samples, ks)
            found |= {
                f"val/{part}/{metric.label}": own[metric.name] for metric in PER_PART_METRICS if metric.name in own
            }
    return found


def overall_metrics(
    samples: Sequence[Sample], scores: Scores, num_samples: int, ks: Sequence[int]
) -> dict[str, Estimate]:
    """What is right, the form, and each reward term; the reward itself where some question has no gold answer."""
    found = summarise([samples[i : i + num_samples] for i in range(0, len(samples), num_samples)], ks)
    values = {f"val/reward/{name}": values for name, values in scores.terms.items()}
    values |= {"val/reward": scores.total} if any(sample.correct is None for sample in samples) else {}
    rewards = {name: reward(given, num_samples) for name, given in values.items()}
    return found | {name: figure for name, figure in rewards.items() if figure}
