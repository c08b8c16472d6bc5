"""A teacher without a model: it solves sums step by step, with errors at a set rate."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Generator, Sequence
from typing import Annotated, Any

from annotated_types import Interval

from r1.core.errors import DATA, UserError
from r1.data.arithmetic import Language, worked_solution
from r1.data.base import Row
from r1.data.completion import format_completion, parse
from r1.data.conversation import question_text
from r1.teacher.base import Answer, Question, Reply

BATCH_SIZE = 64  # questions between two calls of check_for_stop
SUM = re.compile(r"\d{1,18}(?:\+\d{1,18})+=\?")


class Procedural:
    """Solves ``data=arithmetic``; for ``data=countdown`` it repeats the completion in the row.

    Args:
        error_rate: probability that an answer contains an error and is wrong.
        language: of the steps of a sum; the completions of countdown rows have their own language.
    """

    name = "procedural"

    def __init__(self, *, error_rate: Annotated[float, Interval(ge=0, le=1)], language: Language) -> None:
        self.error_rate, self.language = error_rate, language

    def identity(self, row: Row) -> dict[str, Any]:
        question = question_text(row["prompt"])
        completion = {} if SUM.fullmatch(question) else {"completion": row.get("completion")}
        knobs = {"error_rate": self.error_rate, "language": self.language}
        return {"teacher": self.name, **knobs, "question": question, **completion}

    def answer(self, questions: Sequence[Question], check_for_stop: Callable[[], None]) -> Generator[list[Reply]]:
        """Raises: UserError: a row is neither a sum nor a countdown problem with a completion."""
        for start in range(0, len(questions), BATCH_SIZE):
            check_for_stop()
            batch = questions[start : start + BATCH_SIZE]
            yield [Reply(question, self._answer(question.row, question.seed)) for question in batch]

    def _answer(self, row: Row, seed: int) -> Answer:
        rng = random.Random(seed)
        wrong, question = rng.random() < self.error_rate, question_text(row["prompt"])
        if SUM.fullmatch(question):
            text = add_up([int(term) for term in re.findall(r"\d+", question)], wrong, rng, self.language)
        elif "numbers" in row and row.get("completion"):
            text = corrupt_answer(row["completion"]) if wrong else row["completion"]
        else:
            raise UserError(
                "the procedural teacher cannot solve this row",
                key="teacher",
                value=question,
                expected="sums such as 3+5+8=? (data=arithmetic), or worked countdown rows (data=countdown)",
                hint="choose another teacher: teacher=transformers or teacher=openai",
                code=DATA,
            )
        return Answer(text, "stop", prompt_tokens=0, completion_tokens=0)


def add_up(terms: list[int], wrong: bool, rng: random.Random, language: Language) -> str:
    """A sum solved in steps. If ``wrong``, draws errors until the answer is wrong: two errors may cancel out."""
    while True:
        thinking = worked_solution(terms, rng, [language], slip_rate=1 / len(terms) if wrong else 0.0)
        answer = re.findall(r"\d+", thinking)[-1]
        if (int(answer) != sum(terms)) == wrong:
            return format_completion(thinking, answer)


def corrupt_answer(completion: str) -> str:
    """The same steps with an answer that is off by one; works for any arithmetic expression."""
    parsed = parse(completion)
    return format_completion(parsed.thinking or "", f"({parsed.answer})+1")
