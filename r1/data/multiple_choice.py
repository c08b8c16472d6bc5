"""Multiple choice: a question, its options as lettered lines, and the letter of the right one as the answer."""

from __future__ import annotations

import random
import re
import string
from functools import partial
from typing import Annotated, Any, Literal, Unpack

from annotated_types import Ge

from r1.core.errors import DATA, UserError
from r1.data.base import Data
from r1.data.benchmark import BenchmarkOptions
from r1.data.columns import Row, is_visible_text, require_text
from r1.data.dataset import DatasetOptions, read_dataset
from r1.data.mapping import lettered

LETTERS = string.ascii_uppercase
INCORRECT = re.compile("incorrect_[0-9]+")
Gold = Literal["letter", "index", "text"]


class ChoiceOptions(DatasetOptions):
    """The knobs of every multiple-choice dataset.

    Attributes:
        answer_is: the column ``answer`` is the right option's letter, its index from 0, or its text.
        shuffle_options: seed of the options' order, which is a function of it and the question; None: as they are.
    """

    answer_is: Gold
    shuffle_options: Annotated[int, Ge(0)] | None


class ChoiceBenchmarkOptions(ChoiceOptions, BenchmarkOptions):
    """The knobs of a multiple-choice benchmark."""


def multiple_choice(learns: bool, **options: Unpack[ChoiceOptions]) -> Data:
    """Questions with a column ``options``, a list of texts.

    Raises:
        UserError: the dataset cannot be read, or a row has no options or no right one among them.
    """
    return read_choices(options, learns)


def read_choices(options: ChoiceOptions, learns: bool) -> Data:
    answer_is, seed = options["answer_is"], options["shuffle_options"]
    step = partial(choice_row, answer_is, seed)
    return read_dataset(options, learns, step, ["multiple_choice", answer_is, seed])


def choice_row(answer_is: Gold, seed: int | None, row: Row, location: str) -> Row:
    """The row with its options in the prompt, in their order; ``option_order`` has the source's index of each."""
    question, texts = require_text(row, "prompt", location), listed_options(row)
    if not (isinstance(texts, list) and 2 <= len(texts) <= len(LETTERS) and all(map(is_visible_text, texts))):
        expected = f"a list of 2 to {len(LETTERS)} texts"
        raise bad_column("options", "holds no list of options", texts, expected, location)
    texts = [text.strip() for text in texts]
    right, order = index_of(row.get("answer"), answer_is, texts, location), list(range(len(texts)))
    if seed is not None:
        random.Random(f"options/{seed}/{question}").shuffle(order)
    texts = [texts[i] for i in order]
    prompt, letter = f"{question.strip()}\n\n{lettered(texts)}", LETTERS[order.index(right)]
    return row | {"prompt": prompt, "answer": letter, "options": texts, "option_order": order}


def listed_options(row: Row) -> Any:
    """The column ``options``; where there is none, the right answer and the columns ``incorrect_1``, ..."""
    incorrect = sorted(name for name in row if INCORRECT.fullmatch(name))
    return [row.get("answer"), *(row[name] for name in incorrect)] if incorrect else row.get("options")


def index_of(answer: Any, answer_is: Gold, texts: list[str], location: str) -> int:
    """The index of the right option."""
    known: list[Any] = {"letter": [*LETTERS[: len(texts)]], "index": [*range(len(texts))], "text": texts}[answer_is]
    stated = answer.strip() if isinstance(answer, str) else answer
    if stated not in known or isinstance(stated, bool):
        expected = "the text of an option" if answer_is == "text" else f"{known[0]} to {known[-1]}"
        raise bad_column("answer", f"is not the {answer_is} of an option", answer, expected, location)
    return known.index(stated)


def bad_column(name: str, message: str, value: Any, expected: str, location: str) -> UserError:
    text = f"{location}: the column `{name}` {message}"
    hint = "answer_is: letter | index | text" if name == "answer" else ""
    return UserError(text, key=f".columns.{name}", value=value, expected=expected, hint=hint, code=DATA)
