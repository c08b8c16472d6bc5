"""Held-out prompts, answered: each device takes its share of them, and all know all answers afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from r1.core.seeds import derive_seed
from r1.data.base import Row
from r1.reward.base import Scores
from r1.stage.validation.metrics import Sample

if TYPE_CHECKING:
    from r1.stage.base import Stage

T = TypeVar("T")


def sample_validation(stage: Stage, indices: Sequence[int]) -> tuple[list[Row], list[Sample], Scores, dict[str, float]]:
    """``val.num_samples`` answers to each of these prompts, side by side, as one device would give them.

    Returns:
        Row, sample and scores of each answer, and what could not be scored, by reason.
    """
    n = stage.validation.num_samples
    mine = shard(indices, stage.ranks.rank, stage.ranks.size)
    parts = [part for part in stage.gather(_answered(stage, mine) if mine else {}) if part]
    samples = [Sample(**sample) for part in parts for sample in part["samples"]]
    counts: dict[str, float] = {}
    for name, count in (item for part in parts for item in part["counts"].items()):
        counts[name] = counts.get(name, 0.0) + count
    return [stage.data.val[i] for i in indices for _ in range(n)], samples, _joined(parts), counts


def shard(items: Sequence[T], rank: int, size: int) -> list[T]:
    """This device's part of a list: whole prompts, in order; the parts differ by one at most and may be empty."""
    return list(items[rank * len(items) // size : (rank + 1) * len(items) // size])


def _answered(stage: Stage, indices: Sequence[int]) -> dict[str, Any]:
    n = stage.validation.num_samples
    rows = [stage.data.val[i] for i in indices]
    groups = stage.sample(rows, [[derive_seed(stage.seed, "val", i, s) for s in range(n)] for i in indices])
    rollouts, flat_rows = [r for group in groups for r in group], [row for row in rows for _ in range(n)]
    texts, scores = stage.score(flat_rows, rollouts)
    right = stage.data.all_correct(texts, flat_rows)
    samples = [
        asdict(Sample(text, len(rollout.completion_ids), rollout.truncated, correct))
        for text, rollout, correct in zip(texts, rollouts, right, strict=True)
    ]
    return {"samples": samples, "scores": vars(scores), "counts": stage.pop_scorer_counts()}


def _joined(parts: Sequence[dict[str, Any]]) -> Scores:
    found = [part["scores"] for part in parts]
    terms = {name: [value for scores in found for value in scores["terms"][name]] for name in found[0]["terms"]}
    return Scores(terms, found[0]["weights"], [value for scores in found for value in scores["total"]])
