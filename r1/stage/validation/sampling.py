"""Completions of the held-out prompts: each rank samples its shard, and all ranks receive all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from r1.core.seeds import derive_seed
from r1.data.base import Row, verify_completions
from r1.data.completion import parse
from r1.distributed.collectives import RankGroup
from r1.reward.base import Scores
from r1.stage.runtime.policy_sampler import PolicySampler
from r1.stage.validation.metrics import Sample, Validation
from r1.stage.validation.votes import votes

T = TypeVar("T")


@dataclass(frozen=True)
class ValidationCompletions:
    """P x n completions, the n of a prompt next to each other.

    Attributes:
        rows: the held-out row of each completion.
        samples: text, length and correctness of each completion.
        scores: reward terms of each completion.
        scoring_errors: completions that could not be scored, by reason.
    """

    rows: list[Row]
    samples: list[Sample]
    scores: Scores
    scoring_errors: dict[str, float]


def sample_validation(
    sampler: PolicySampler, ranks: RankGroup, validation: Validation, seed: int, indices: Sequence[int]
) -> ValidationCompletions:
    """``num_samples`` completions of each of these held-out rows, the same on any number of ranks."""
    n = validation.num_samples
    own = shard(indices, ranks.rank, ranks.size)
    parts = [part for part in ranks.gather(_sample_shard(sampler, own, n, seed) if own else {}) if part]
    errors: dict[str, float] = {}
    for reason, count in (item for part in parts for item in part["errors"].items()):
        errors[reason] = errors.get(reason, 0.0) + count
    return ValidationCompletions(
        rows=[sampler.data.val[i] for i in indices for _ in range(n)],
        samples=[Sample(**sample) for part in parts for sample in part["samples"]],
        scores=_concat_scores([part["scores"] for part in parts]),
        scoring_errors=errors,
    )


def shard(items: Sequence[T], rank: int, size: int) -> list[T]:
    """This rank's part of a list, in order; the parts differ by one item at most and may be empty."""
    return list(items[rank * len(items) // size : (rank + 1) * len(items) // size])


def _sample_shard(sampler: PolicySampler, indices: Sequence[int], n: int, seed: int) -> dict[str, Any]:
    """Plain containers, which ``gather`` can send."""
    rows = [sampler.data.val[i] for i in indices]
    groups = sampler.sample(rows, [[derive_seed(seed, "val", i, s) for s in range(n)] for i in indices])
    rollouts, flat_rows = [rollout for group in groups for rollout in group], [row for row in rows for _ in range(n)]
    texts, scores = sampler.score(flat_rows, rollouts)
    answers = [parse(text).answer for text in texts]
    correct = verify_completions(sampler.data.verifier, answers, flat_rows)
    ballots = votes(sampler.data.verifier, answers, correct, flat_rows, n)
    samples = [
        asdict(Sample(text, len(rollout.completion_ids), rollout.truncated, is_correct, vote))
        for text, rollout, is_correct, vote in zip(texts, rollouts, correct, ballots, strict=True)
    ]
    return {"samples": samples, "scores": vars(scores), "errors": sampler.pop_scoring_errors()}


def _concat_scores(parts: Sequence[dict[str, Any]]) -> Scores:
    terms = {name: [value for part in parts for value in part["terms"][name]] for name in parts[0]["terms"]}
    return Scores(terms, parts[0]["weights"], [value for part in parts for value in part["total"]])
