"""Rejection sampling: the policy answers the training questions; accepted answers are a dataset (DeepSeek-R1 2.3.3).

``traces/`` of the record holds three files: ``traces.jsonl``, the selected answers, for ``data=traces``;
``questions.jsonl``, every question with its pass rate, for ``data=dataset``; and ``samples.jsonl``, the journal of all
answers. A line of the journal is a batch of questions, on the disk before the next batch starts: a resumed run samples
none of them again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from typing import Annotated, Any

from annotated_types import Ge, Interval

from r1.core import jsonl
from r1.core.batch import chunks
from r1.core.errors import DATA, UserError
from r1.core.files import write_atomic
from r1.core.seeds import derive_seed
from r1.core.statistics import Estimate
from r1.data.columns import INTERNAL
from r1.stage.base import Stage, StageParts
from r1.stage.distillation.candidates import (
    Candidate,
    Select,
    difficulty_metrics,
    outcome_counts,
    pass_rate,
    select_candidates,
)
from r1.stage.distillation.filters import Filters
from r1.stage.distillation.traces import TraceFiles, format_counts, trace_files, write_traces
from r1.stage.training.loader import Batches
from r1.stage.validation.sampling import shard


class RejectionSampling(Stage):
    """Samples n answers to each question and writes the accepted ones as training rows; trains nothing.

    Args:
        filters: the conditions that accept an answer (nested group ``stage/filters``).
        num_questions: training questions to sample answers for, the first of the split.
        answers_per_question: n.
        questions_at_once: questions in one batch.
        select: ``all`` accepted answers of a question, or the ``best``: the highest reward, of equals the first.
        max_per_question: maximum number of rows per question, the first ones sampled; null: no limit.
        min_pass_rate, max_pass_rate: questions with a share of right answers outside give no rows.
    """

    predicts = True
    filters: Filters

    def __init__(
        self,
        parts: StageParts,
        filters: Filters,
        *,
        num_questions: Annotated[int, Ge(1)],
        answers_per_question: Annotated[int, Ge(1)],
        questions_at_once: Annotated[int, Ge(1)],
        select: Select,
        max_per_question: Annotated[int, Ge(1)] | None,
        min_pass_rate: Annotated[float, Interval(ge=0, le=1)],
        max_pass_rate: Annotated[float, Interval(ge=0, le=1)],
    ) -> None:
        super().__init__(parts)
        self.filters, self.select, self.max_per_question = filters, select, max_per_question
        self.num_questions, self.answers_per_question = num_questions, answers_per_question
        self.questions_at_once = questions_at_once
        self.min_pass_rate, self.max_pass_rate = min_pass_rate, max_pass_rate
        self.batches: list[dict[str, Any]] = []  # the journal's lines

    # ---- phase 1: sampling, in Lightning's predict loop ----

    @property
    def files(self) -> TraceFiles | None:
        return trace_files(self.run)

    def predict_dataloader(self) -> Batches:
        return Batches([list(part) for part in chunks(range(self.num_questions), self.questions_at_once)])

    def on_predict_start(self) -> None:
        def read_batches() -> list[dict[str, Any]]:
            return jsonl.repair_and_read(self.files.batches, checksums=True) if self.files else []

        self.batches = self.run.ranks.broadcast_from_rank_zero(read_batches)

    def predict_step(self, indices: list[int], batch_idx: int) -> dict[str, Any]:
        """The journal's line for a batch of questions."""
        if batch_idx < len(self.batches):  # sampled before the run was resumed
            return self.batches[batch_idx]
        own_indices = shard(indices, self.run.ranks.rank, self.run.ranks.size)
        with self.summon_full_params():
            self.update_engine()
            groups = self.candidates(own_indices) if own_indices else []
        answers = [[asdict(candidate) for candidate in group] for group in groups]
        parts = self.run.ranks.gather({"answers": answers, "counts": self.data.pop_error_counts()})
        batch = {
            "prompts": [self.data.train[i]["prompt"] for i in indices],
            "answers": [group for part in parts for group in part["answers"]],
            "counts": dict(sum((Counter(part["counts"]) for part in parts), Counter[str]())),
        }
        if self.files:
            jsonl.append_rows(self.files.batches, [batch], sync=True, checksums=True)
        self.batches.append(batch)
        return batch

    def candidates(self, indices: list[int]) -> list[Sequence[Candidate]]:
        """n answers to each of these training questions, scored and filtered."""
        n, questions = self.answers_per_question, [self.data.train[i] for i in indices]
        seeds = [[derive_seed(self.seed, "reject", i, s) for s in range(n)] for i in indices]
        rollouts = [rollout for group in self.sampler.sample(questions, seeds) for rollout in group]
        rows = [row for row in questions for _ in range(n)]
        texts, scores = self.sampler.score(rows, rollouts)
        rejected_by = self.filters.rejected_by(
            rows=rows,
            completions=texts,
            completion_ids=[rollout.completion_ids for rollout in rollouts],
            truncated=[rollout.truncated for rollout in rollouts],
            verifier=self.data.verifier,
            max_completion_length=self.engine.max_completion_length,
        )
        correct = self.data.all_correct(texts, rows)
        rewards = [None if isnan(total) else total for total in scores.total]
        candidates = [
            Candidate(text, len(rollout.completion_ids), rollout.truncated, is_correct, reward, filter_name)
            for text, rollout, is_correct, reward, filter_name in zip(
                texts, rollouts, correct, rewards, rejected_by, strict=True
            )
        ]
        return chunks(candidates, n)

    # ---- phase 2: selection ----

    def on_predict_end(self) -> None:
        questions = self.data.train[: self.num_questions]
        groups = [[Candidate(**fields) for fields in group] for batch in self.batches for group in batch["answers"]]
        pass_rates = [pass_rate(row, group) for row, group in zip(questions, groups, strict=True)]
        rows = [
            {**row, "completion": answer.completion, "reward": answer.reward, "pass_rate": rate}
            for row, group, rate in zip(questions, groups, pass_rates, strict=True)
            if rate is None or self.min_pass_rate <= rate <= self.max_pass_rate
            for answer in select_candidates(group, self.select, self.max_per_question)
        ]
        counts = outcome_counts(groups, self.filters) | {"selected": len(rows)}
        self.report_outcome(counts, difficulty_metrics(pass_rates, self.answers_per_question))
        if self.files:
            graded = (
                {name: value for name, value in row.items() if name not in INTERNAL} | {"pass_rate": rate}
                for row, rate in zip(questions, pass_rates, strict=True)
            )
            write_atomic(self.files.questions, "".join(map(jsonl.row_to_line, graded)))
        require_nonempty(counts)
        if self.files:
            write_traces(self.files.traces, rows, counts)

    def report_outcome(self, counts: dict[str, int], metrics: dict[str, Estimate]) -> None:
        """One row of metrics for the run; ``metrics`` also join those of the validation in the manifest."""
        self.validator.metrics = self.validator.metrics | metrics  # a new dict: the record holds that of the start
        scoring_errors = sum((Counter(batch["counts"]) for batch in self.batches), Counter[str]())
        all_counts = {f"rejection/{name}": count for name, count in counts.items()} | scoring_errors
        row = {name: estimate.value for name, estimate in metrics.items()}
        self.report(row | {name: float(count) for name, count in all_counts.items()})


def require_nonempty(counts: dict[str, int]) -> None:
    """Raises: UserError: no answer became a training row."""
    if not counts["selected"]:
        raise UserError(
            "no answer was accepted",
            key="stage.filters",
            value=format_counts(counts),
            hint="take a better model, sample more, or leave out a filter: ~stage.filters.NAME",
            code=DATA,
        )
