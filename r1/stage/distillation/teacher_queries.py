"""Asking a teacher: what it says is in the store before anything else happens, and nothing is asked for twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Literal

from r1.core.console import console, status_line
from r1.core.errors import MODEL, UserError
from r1.core.progress_counter import ProgressCounter
from r1.data.base import Row
from r1.stage.distillation.answer_cache import AnswerCache
from r1.teacher.base import Answer, Question, Reply, Teacher, content_key

ModelChange = Literal["stop", "accept"]


@dataclass(frozen=True)
class TeacherAnswers:
    """What came of it.

    Attributes:
        pairs: every answer with its question, in the order of the questions, not of their arrival.
        counts: tokens, models, questions without an answer by reason: the same whenever these answers are used.
        timing: what was asked by this process, how fast, and what failed on the way: no two runs share that.
    """

    pairs: list[tuple[Row, Answer]]
    counts: dict[str, int]
    timing: dict[str, float]


def query_teacher(
    teacher: Teacher,
    questions: Sequence[Question],
    store: AnswerCache,
    poll: Callable[[], None],
    model_change: ModelChange,
) -> TeacherAnswers:
    """Take from the store what it holds, ask for the rest.

    Raises:
        UserError: the teacher gives up; or the model behind it has changed, and ``model_change`` is ``stop``.
    """
    wanted = {content_key(cache_key_fields(teacher, question)): question for question in questions}
    held = {row["key"]: Answer(**row["answer"]) for row in store.rows() if row["key"] in wanted and row["answer"]}
    models, tally = ModelChangeGuard(teacher.name, model_change, store, poll), QueryStats(len(held))
    models.see(held.values())
    models.poll()
    left = [question for key, question in wanted.items() if key not in held]
    try:
        with ProgressCounter("asking", len(wanted)) as progress, closing(teacher.answer(left, models.poll)) as arriving:
            for replies in arriving:
                lines = [line(teacher, reply) for reply in replies]
                store.add(lines)
                held |= {row["key"]: reply.answer for row, reply in zip(lines, replies, strict=True) if reply.answer}
                tally.add(replies)
                progress.set_progress(len(held), str(tally))
                models.see(reply.answer for reply in replies if reply.answer)
        models.poll()
    finally:
        console.print(status_line(f"{len(held)} of {len(wanted)} answers: {tally}"))
    keys = (content_key(cache_key_fields(teacher, question)) for question in questions)
    pairs = [(question.row, held[key]) for key, question in zip(keys, questions, strict=True) if key in held]
    return TeacherAnswers(pairs, counts(held.values(), models, tally), tally.timing())


def cache_key_fields(teacher: Teacher, question: Question) -> dict[str, Any]:
    """All that decides an answer; the sample too, for backends that do not heed the seed."""
    return teacher.identity(question.row) | {"sample": question.sample, "seed": question.seed}


def line(teacher: Teacher, reply: Reply) -> dict[str, Any]:
    """A reply as the store keeps it. One without an answer is kept for the reader, and asked for again."""
    asked = cache_key_fields(teacher, reply.question)
    answer = asdict(reply.answer) if reply.answer else None
    failures = [{"kind": failure.kind, "said": failure.message} for failure in reply.failures]
    return {"key": content_key(asked), "asked": asked, "answer": answer, "failures": failures}


class ModelChangeGuard:
    """What the backend says has answered: one model, or the answers are not of one teacher."""

    def __init__(self, name: str, change: ModelChange, store: AnswerCache, poll: Callable[[], None]) -> None:
        self.name, self.change, self.store, self._poll = name, change, store, poll
        self.seen: list[str] = []

    def see(self, answers: Iterable[Answer]) -> None:
        for model in (answer.model for answer in answers):
            if model and model not in self.seen:
                self.seen.append(model)
                self._tell(model)

    def _tell(self, model: str) -> None:
        if len(self.seen) > 1 and self.change == "accept":
            console.print(status_line(f"warning: {self._changed()}"))
        if len(self.seen) == 1 and model != self.name:
            console.print(status_line(f"note: `{self.name}` was asked for, and `{model}` says that it answers"))

    def _changed(self) -> str:
        return f"the teacher's model has changed: `{self.seen[-1]}` answers now, `{self.seen[-2]}` did before"

    def poll(self) -> None:
        """The run's ``poll``, which also ends the asking once a second model has answered and is not accepted."""
        self._poll()
        if len(self.seen) > 1 and self.change == "stop":
            raise UserError(
                self._changed(),
                key="teacher.model",
                value=self.name,
                hint="name one exact model and ask it for all answers; or keep both, in another output_dir: "
                f"stage.model_change=accept stage.store={self.store.file}",
                code=MODEL,
            )


class QueryStats:
    """What this process has asked, for the screen and ``timing.jsonl``."""

    def __init__(self, num_stored: int) -> None:
        self.num_stored, self.num_asked, self.started = num_stored, 0, time.monotonic()
        self.prompt_tokens = self.completion_tokens = 0
        self.failed, self.retried = Counter[str](), Counter[str]()

    def add(self, replies: Iterable[Reply]) -> None:
        for reply in replies:
            kinds = [failure.kind for failure in reply.failures]
            if reply.answer:
                self.num_asked += 1
                self.prompt_tokens += reply.answer.prompt_tokens
                self.completion_tokens += reply.answer.completion_tokens
            else:
                self.failed[kinds.pop()] += 1
            self.retried.update(kinds)

    def __str__(self) -> str:
        now = f"{self.num_asked} asked for now ({self._rate():.1f}/s)" if self.num_asked else "none asked for now"
        said = [f"{self.num_stored} from the store, {now}"]
        said += [f"{self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out"] if self.prompt_tokens else []
        said += [_by_reason("without an answer", self.failed)] if self.failed else []
        said += [_by_reason("attempts repeated", self.retried)] if self.retried else []
        return "; ".join(said)

    def timing(self) -> dict[str, float]:
        retried = {f"time/ask/repeated/{kind}": float(count) for kind, count in sorted(self.retried.items())}
        counted = {"time/ask/stored": float(self.num_stored), "time/ask/asked": float(self.num_asked)}
        return {"time/ask": time.monotonic() - self.started, **counted, **retried}

    def _rate(self) -> float:
        return self.num_asked / max(time.monotonic() - self.started, 1e-9)


def _by_reason(what: str, kinds: Counter[str]) -> str:
    return f"{kinds.total()} {what} ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})"


def counts(answers: Iterable[Answer], models: ModelChangeGuard, tally: QueryStats) -> dict[str, int]:
    """The cost in tokens of all answers that are used, whoever paid; models that have answered; what is missing."""
    used = list(answers)
    return {
        "prompt_tokens": sum(answer.prompt_tokens for answer in used),
        "completion_tokens": sum(answer.completion_tokens for answer in used),
        "models": len(models.seen),
        "unanswered": tally.failed.total(),
        **{f"unanswered/{kind}": count for kind, count in sorted(tally.failed.items())},
    }
