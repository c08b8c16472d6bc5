"""Queries to a teacher: every answer is in the cache before it is used, and no cached answer is requested again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Literal

from r1.core.console import console, status_line
from r1.core.errors import MODEL, UserError
from r1.core.progress_counter import ProgressCounter
from r1.core.secrets import redact
from r1.data.base import Row
from r1.stage.distillation.answer_cache import AnswerCache
from r1.teacher.base import Answer, Question, Reply, Teacher, content_key

ModelChange = Literal["stop", "accept"]


@dataclass(frozen=True)
class TeacherAnswers:
    """The answers to a set of questions.

    Attributes:
        pairs: every answer with its question, in the order of the questions, not of arrival.
        counts: tokens, models, unanswered questions by reason; the same for every run that uses these answers.
        timing: cached and new answers, duration and retries; different in every run.
    """

    pairs: list[tuple[Row, Answer]]
    counts: dict[str, int]
    timing: dict[str, float]


def query_teacher(
    teacher: Teacher,
    questions: Sequence[Question],
    cache: AnswerCache,
    check_for_stop: Callable[[], None],
    model_change: ModelChange,
) -> TeacherAnswers:
    """Answers from the cache, and from the teacher where the cache has none.

    Raises:
        UserError: the teacher gives up; or the model behind it has changed, and ``model_change`` is ``stop``.
    """
    keys = [content_key(cache_key_fields(teacher, question)) for question in questions]
    by_key = dict(zip(keys, questions, strict=True))  # a repeated question has one answer
    answers = {row["key"]: Answer(**row["answer"]) for row in cache.rows() if row["key"] in by_key and row["answer"]}
    stats = QueryStats(len(answers))
    models = ModelChangeGuard(teacher.name, model_change, cache, check_for_stop)
    models.add(answers.values())
    models.check_for_stop()
    pending = [question for key, question in by_key.items() if key not in answers]
    try:
        with (
            ProgressCounter("asking", len(by_key)) as progress,
            closing(teacher.answer(pending, models.check_for_stop)) as arriving,
        ):
            for replies in arriving:
                rows = [cache_row(teacher, reply) for reply in replies]
                cache.add(rows)  # first of all: an answer that was paid for must survive whatever follows
                answers |= {row["key"]: reply.answer for row, reply in zip(rows, replies, strict=True) if reply.answer}
                stats.add(replies)
                progress.set_progress(len(answers), str(stats))
                models.add(reply.answer for reply in replies if reply.answer)
        models.check_for_stop()
    finally:
        console.print(status_line(f"{len(answers)} of {len(by_key)} answers: {stats}"))
    pairs = [(question.row, answers[key]) for key, question in zip(keys, questions, strict=True) if key in answers]
    counts = token_counts(answers.values()) | {"models": len(models.names)} | stats.unanswered()
    return TeacherAnswers(pairs, counts, stats.timing())


def cache_key_fields(teacher: Teacher, question: Question) -> dict[str, Any]:
    """All inputs of an answer; ``sample`` among them for backends that ignore the seed."""
    return teacher.identity(question.row) | {"sample": question.sample, "seed": question.seed}


def cache_row(teacher: Teacher, reply: Reply) -> dict[str, Any]:
    """A reply as a row of the cache. A row without an answer documents the failures; a later run retries it."""
    fields = cache_key_fields(teacher, reply.question)
    answer = asdict(reply.answer) if reply.answer else None
    failures = [{"kind": failure.kind, "said": failure.message} for failure in reply.failures]
    return {"key": content_key(fields), "query": redact(fields), "answer": answer, "failures": failures}


def token_counts(answers: Collection[Answer]) -> dict[str, int]:
    """Tokens of all answers, cached ones included."""
    return {
        "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
        "completion_tokens": sum(answer.completion_tokens for answer in answers),
    }


class ModelChangeGuard:
    """Detects that a second model answers under the teacher's name.

    Attributes:
        names: models that the backend has reported, in order of appearance.
    """

    def __init__(
        self, teacher_name: str, policy: ModelChange, cache: AnswerCache, check_for_stop: Callable[[], None]
    ) -> None:
        self.teacher_name, self.policy, self.cache = teacher_name, policy, cache
        self._check_for_stop = check_for_stop
        self.names: list[str] = []

    def add(self, answers: Iterable[Answer]) -> None:
        """Collect the models of some answers, and report a new one."""
        for model in (answer.model for answer in answers):
            if model and model not in self.names:
                self.names.append(model)
                self._report(model)

    def _report(self, model: str) -> None:
        if len(self.names) > 1 and self.policy == "accept":
            console.print(status_line(f"warning: {self._change()}"))
        if len(self.names) == 1 and model != self.teacher_name:
            console.print(status_line(f"note: the model `{model}` answers requests for `{self.teacher_name}`"))

    def _change(self) -> str:
        return f"the teacher's model has changed: `{self.names[-1]}` answers now, `{self.names[-2]}` did before"

    def check_for_stop(self) -> None:
        """The run's ``check_for_stop``; it also raises once a second model has answered and is not accepted."""
        self._check_for_stop()
        if len(self.names) > 1 and self.policy == "stop":
            raise UserError(
                self._change(),
                key="teacher.model",
                value=self.teacher_name,
                hint="name one exact model and ask it for all answers; or accept both, in another output_dir: "
                f"stage.model_change=accept stage.store={self.cache.file}",
                code=MODEL,
            )


class QueryStats:
    """Progress and cost of the queries of this process, for the screen and ``timing.jsonl``."""

    def __init__(self, num_cached: int) -> None:
        self.num_cached, self.num_new, self.started = num_cached, 0, time.monotonic()
        self.prompt_tokens = self.completion_tokens = 0
        self.failed, self.retried = Counter[str](), Counter[str]()

    def add(self, replies: Iterable[Reply]) -> None:
        for reply in replies:
            kinds = [failure.kind for failure in reply.failures]
            if reply.answer:
                self.num_new += 1
                self.prompt_tokens += reply.answer.prompt_tokens
                self.completion_tokens += reply.answer.completion_tokens
            else:
                self.failed[kinds.pop()] += 1  # the last attempt; the ones before it were retried
            self.retried.update(kinds)

    def __str__(self) -> str:
        rate = self.num_new / max(time.monotonic() - self.started, 1e-9)
        parts = [f"{self.num_cached} from the store, {self.num_new} new" + (f" ({rate:.1f}/s)" if self.num_new else "")]
        if self.prompt_tokens:
            parts.append(f"{self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out")
        for title, kinds in (("without an answer", self.failed), ("attempts repeated", self.retried)):
            if kinds:
                by_kind = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
                parts.append(f"{kinds.total()} {title} ({by_kind})")
        return "; ".join(parts)

    def timing(self) -> dict[str, float]:
        retried = {f"time/teacher/retried/{kind}": float(count) for kind, count in sorted(self.retried.items())}
        answers = {"time/teacher/cached": float(self.num_cached), "time/teacher/new": float(self.num_new)}
        return {"time/teacher": time.monotonic() - self.started, **answers, **retried}

    def unanswered(self) -> dict[str, int]:
        """Questions without an answer, in all and by kind of failure."""
        by_kind = {f"unanswered/{kind}": count for kind, count in sorted(self.failed.items())}
        return {"unanswered": self.failed.total()} | by_kind
