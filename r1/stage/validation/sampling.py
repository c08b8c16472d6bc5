"""Completions of the held-out prompts: each rank samples its shard, and all ranks receive all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from r1.core.batch import chunks
from r1.core.seeds import derive_seed
from r1.data.base import Data, Row, Verifier, read_answers, verify_completions
from r1.data.lenient import Reading, lenient_answer
from r1.distributed.collectives import RankGroup
from r1.reward.base import Scores
from r1.rollout.base import Sampling
from r1.stage.runtime.policy_sampler import PolicySampler
from r1.stage.validation.metrics import Sample, SampledAnswer, Validation
from r1.stage.validation.votes import votes

T = TypeVar("T")


@dataclass(frozen=True)
class ValidationCompletions:
    """P x n completions, the n of a prompt next to each other.

    Attributes:
        indices: the number of each prompt in the held-out split; P.
        rows: the held-out row of each completion.
        samples: text, length and correctness of each completion.
        scores: reward terms of each completion.
        greedy: the greedy completion of each prompt; P, or none without ``val.greedy``.
        scoring_errors: completions that could not be scored, by reason.
    """

    indices: list[int]
    rows: list[Row]
    samples: list[Sample]
    scores: Scores
    greedy: list[SampledAnswer]
    scoring_errors: dict[str, float]

    def select(self, prompts: Sequence[int]) -> ValidationCompletions:
        """Those of some of the P prompts, without the counts of errors."""
        n = len(self.samples) // len(self.indices)
        members = [p * n + s for p in prompts for s in range(n)]
        return ValidationCompletions(
            indices=[self.indices[p] for p in prompts],
            rows=[self.rows[b] for b in members],
            samples=[self.samples[b] for b in members],
            scores=self.scores.part(members),
            greedy=[self.greedy[p] for p in prompts] if self.greedy else [],
            scoring_errors={},
        )


class SampledCount:
    """Completions so far, while calls of the engine are under way."""

    def __init__(self) -> None:
        self.of_parts = self.of_calls = self.of_call = 0

    def during_call(self, finished: int) -> int:
        """The count, ``finished`` being those of the call: fewer than before are those of another call."""
        if finished < self.of_call:
            self.of_calls += self.of_call
        self.of_call = finished
        return self.of_parts + self.of_calls + finished

    def add_part(self, size: int) -> None:
        """A part is complete."""
        self.of_parts, self.of_calls, self.of_call = self.of_parts + size, 0, 0


def sample_validation(
    sampler: PolicySampler, ranks: RankGroup, validation: Validation, seed: int, indices: Sequence[int]
) -> Iterator[ValidationCompletions]:
    """``num_samples`` completions of each of these held-out rows, the same on any number of ranks, part by part.

    A part is as large as the engine needs to be busy in one call.
    """
    prompts_per_batch = max(1, sampler.engine.batch_size // validation.num_samples)
    for part in chunks(indices, prompts_per_batch * sampler.engine.batches_per_call * ranks.size):
        own = shard(part, ranks.rank, ranks.size)
        sampled = ranks.gather(_sample_shard(sampler, own, validation, seed) if own else {})
        shards = [_from_plain(shard, sampler.data, validation.num_samples) for shard in sampled if shard]
        yield join_completions(shards)


def join_completions(parts: Sequence[ValidationCompletions]) -> ValidationCompletions:
    """Those of all parts, in this order."""
    errors: Counter[str] = Counter()
    for part in parts:
        errors.update(part.scoring_errors)  # a Counter keeps what is zero, too
    return ValidationCompletions(
        indices=[index for part in parts for index in part.indices],
        rows=[row for part in parts for row in part.rows],
        samples=[sample for part in parts for sample in part.samples],
        scores=_join_scores([part.scores for part in parts]),
        greedy=[answer for part in parts for answer in part.greedy],
        scoring_errors=dict(errors),
    )


def shard(items: Sequence[T], rank: int, size: int) -> list[T]:
    """This rank's part of a list, in order; the parts differ by one item at most and may be empty."""
    return list(items[rank * len(items) // size : (rank + 1) * len(items) // size])


def _sample_shard(sampler: PolicySampler, indices: Sequence[int], validation: Validation, seed: int) -> dict[str, Any]:
    """Plain containers, which ``gather`` can send; see ``_from_plain``."""
    n, data = validation.num_samples, sampler.data
    if validation.verifier:
        data = replace(data, verifier=validation.verifier)
    rows = [data.val[i] for i in indices]
    sampling = validation.sampling_like(sampler.engine.sampling)
    groups = sampler.sample(rows, [[derive_seed(seed, "val", i, s) for s in range(n)] for i in indices], sampling)
    rollouts, flat_rows = [rollout for group in groups for rollout in group], [row for row in rows for _ in range(n)]
    texts, scores = sampler.score(flat_rows, rollouts)
    correct, ballots = verdicts(data.verifier, texts, flat_rows, n)
    readers = [data.source_of(row)[1].reader for row in flat_rows]
    lenient = lenient_verdicts(data.verifier, texts, correct, flat_rows, readers)
    samples = [
        asdict(Sample(text, len(rollout.completion_ids), rollout.truncated, is_correct, vote, is_right))
        for text, rollout, is_correct, vote, is_right in zip(texts, rollouts, correct, ballots, lenient, strict=True)
    ]
    greedy = _greedy_answers(sampler, sampling, data.verifier, rows) if validation.greedy else []
    errors = Counter(sampler.pop_scoring_errors())
    if validation.verifier:
        errors.update(data.pop_error_counts())
    shard = {"indices": list(indices), "samples": samples, "scores": vars(scores)}
    return shard | {"greedy": greedy, "errors": dict(errors)}


def verdicts(
    verifier: Verifier, texts: Sequence[str], rows: Sequence[Row], num_samples: int
) -> tuple[list[bool | None], list[str | None]]:
    """Whether each of P * n completions is right, and its vote."""
    answers = read_answers(verifier, texts, rows)
    correct = verify_completions(verifier, answers, rows)
    return correct, votes(verifier, answers, correct, rows, num_samples)


def lenient_verdicts(
    verifier: Verifier,
    texts: Sequence[str],
    correct: Sequence[bool | None],
    rows: Sequence[Row],
    readers: Sequence[Reading],
) -> list[bool | None]:
    """Whether completions are right strictly (``correct``) or by each one's reader; None where that is strict."""
    again = [b for b, reader in enumerate(readers) if reader != "strict" and correct[b] is False]
    answers = [lenient_answer(texts[b], readers[b]) for b in again]
    right = dict(zip(again, verify_completions(verifier, answers, [rows[b] for b in again]), strict=True))
    return [None if readers[b] == "strict" else right.get(b, correct[b]) for b in range(len(rows))]


def _greedy_answers(
    sampler: PolicySampler, sampling: Sampling, verifier: Verifier, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """One completion of each prompt at temperature 0, as plain ``SampledAnswer``s; it needs no noise."""
    groups = sampler.sample(rows, [[0] for _ in rows], {**sampling, "temperature": 0.0})
    rollouts = [group[0] for group in groups]
    texts = [sampler.text(rollout, row) for rollout, row in zip(rollouts, rows, strict=True)]
    correct = verify_completions(verifier, read_answers(verifier, texts, rows), rows)
    return [
        asdict(SampledAnswer(text, len(rollout.completion_ids), rollout.truncated, is_correct))
        for text, rollout, is_correct in zip(texts, rollouts, correct, strict=True)
    ]


def _from_plain(shard: dict[str, Any], data: Data, num_samples: int) -> ValidationCompletions:
    return ValidationCompletions(
        indices=shard["indices"],
        rows=[data.val[i] for i in shard["indices"] for _ in range(num_samples)],
        samples=[Sample(**sample) for sample in shard["samples"]],
        scores=Scores(**shard["scores"]),
        greedy=[SampledAnswer(**answer) for answer in shard["greedy"]],
        scoring_errors=shard["errors"],
    )


def _join_scores(parts: Sequence[Scores]) -> Scores:
    terms = {name: [value for part in parts for value in part.terms[name]] for name in parts[0].terms}
    return Scores(terms, parts[0].weights, [value for part in parts for value in part.total])
