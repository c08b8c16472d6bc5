"""Rejection sampling: the model's own answers, the good ones kept as a dataset (DeepSeek-R1 2.3.3).

``traces/`` of the record holds ``traces.jsonl``, what was kept, for ``data=traces``; ``questions.jsonl``, every
question asked with its pass rate, for ``data=jsonl``; and ``samples.jsonl``, the journal of all answers: one line per
batch of questions, on the disk before the next batch is begun, so that nothing is sampled twice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Interval

from r1.core import jsonl
from r1.core.errors import DATA, UserError
from r1.core.files import write_atomic
from r1.core.seeds import derive_seed
from r1.core.statistics import Estimate
from r1.stage.base import Stage, StageParts
from r1.stage.distillation.candidates import Candidate, Select, difficulty, pass_rate, selected, tally
from r1.stage.distillation.filters import Filters
from r1.stage.distillation.traces import write_traces
from r1.stage.training.loader import Batches
from r1.stage.validation.sampling import shard


class RejectionSampling(Stage):
    """Samples n answers to each question and keeps those that the filters accept; trains nothing.

    Args:
        filters: which answers are accepted (nested group ``stage/filters``).
        num_questions: training questions that are asked, the first of the split.
        answers_per_question: n.
        questions_at_once: questions in one batch.
        select: ``all`` accepted answers of a question, or the ``best``: the highest reward, of equals the first.
        max_per_question: at most so many, the first ones sampled.
        min_pass_rate, max_pass_rate: questions with a share of right answers outside give no rows.
    """

    predicts = True

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

    # ---- asking ----

    @property
    def folder(self) -> Path | None:
        return self.run.record.dir / "traces" if self.run.record else None

    def predict_dataloader(self) -> Batches:
        size = self.questions_at_once
        return Batches([[*range(i, min(i + size, self.num_questions))] for i in range(0, self.num_questions, size)])

    def on_predict_start(self) -> None:
        def held() -> list[dict[str, Any]]:
            return jsonl.repair_and_read(self.folder / "samples.jsonl") if self.folder else []

        self.batches = self.run.ranks.broadcast_from_rank_zero(held)

    def predict_step(self, indices: list[int], batch_idx: int) -> dict[str, Any]:
        """The journal's line for a batch of questions."""
        if batch_idx < len(self.batches):  # asked by the process that this one goes on from
            return self.batches[batch_idx]
        mine = shard(indices, self.run.ranks.rank, self.run.ranks.size)
        with self.summon_full_params():
            self.update_engine()
            found = self.candidates(mine) if mine else []
        own = {"answers": [[asdict(one) for one in group] for group in found], "counts": self.data.pop_error_counts()}
        parts = self.run.ranks.gather(own)
        batch = {
            "prompts": [self.data.train[i]["prompt"] for i in indices],
            "answers": [group for part in parts for group in part["answers"]],
            "counts": dict(sum((Counter(part["counts"]) for part in parts), Counter[str]())),
        }
        if self.folder:
            jsonl.append_rows(self.folder / "samples.jsonl", [batch], sync=True)
        self.batches.append(batch)
        return batch

    def candidates(self, indices: list[int]) -> list[list[Candidate]]:
        n, rows = self.answers_per_question, [self.data.train[i] for i in indices]
        sampled = self.sampler.sample(
            rows, [[derive_seed(self.seed, "reject", i, s) for s in range(n)] for i in indices]
        )
        flat, rollouts = [row for row in rows for _ in range(n)], [r for group in sampled for r in group]
        texts, scores = self.sampler.score(flat, rollouts)
        lengths, cut = [len(r.completion_ids) for r in rollouts], [r.truncated for r in rollouts]
        rejected_by = self.filters.rejected_by(
            rows=flat,
            completions=texts,
            completion_ids=[r.completion_ids for r in rollouts],
            truncated=cut,
            verifier=self.data.verifier,
            max_completion_length=self.engine.max_completion_length,
        )
        right = self.data.all_correct(texts, flat)
        rewards = [None if isnan(total) else total for total in scores.total]
        flat_candidates = [*map(Candidate, texts, lengths, cut, right, rewards, rejected_by)]
        return [flat_candidates[start : start + n] for start in range(0, len(flat), n)]

    # ---- keeping ----

    def on_predict_end(self) -> None:
        questions = self.data.train[: self.num_questions]
        groups = [[Candidate(**c) for c in group] for batch in self.batches for group in batch["answers"]]
        rates = [pass_rate(row, group) for row, group in zip(questions, groups, strict=True)]
        rows = [
            {**row, "completion": answer.completion, "reward": answer.reward, "pass_rate": rate}
            for row, group, rate in zip(questions, groups, rates, strict=True)
            if rate is None or self.min_pass_rate <= rate <= self.max_pass_rate
            for answer in selected(group, self.select, self.max_per_question)
        ]
        counts = tally(groups, self.filters.names) | {"kept": len(rows)}
        self.report_kept(counts, difficulty(rates, self.answers_per_question))
        if self.folder:
            graded = ({**row, "pass_rate": rate} for row, rate in zip(questions, rates, strict=True))
            write_atomic(self.folder / "questions.jsonl", "".join(map(jsonl.row_to_line, graded)))
        require_nonempty(counts)
        if self.folder:
            write_traces(self.folder / "traces.jsonl", rows, counts)

    def report_kept(self, counts: dict[str, int], figures: dict[str, Estimate]) -> None:
        """One row for the whole run; the figures become the record's, beside those of the validation."""
        self.validator.metrics = self.validator.metrics | figures  # a new dict: the record holds the start's
        scorer = sum((Counter(batch["counts"]) for batch in self.batches), Counter[str]())
        whole = {f"rejection/{name}": count for name, count in counts.items()} | scorer
        self.report({name: figure.value for name, figure in figures.items()} | {n: float(c) for n, c in whole.items()})


def require_nonempty(counts: dict[str, int]) -> None:
    """Raises: UserError: nothing was kept."""
    if not counts["kept"]:
        raise UserError(
            "no answer was kept",
            key="stage.filters",
            value=", ".join(f"{name} {count}" for name, count in counts.items()),
            hint="take a better model, ask more, or leave out a filter: ~stage.filters.NAME",
            code=DATA,
        )
