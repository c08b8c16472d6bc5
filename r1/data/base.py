"""The interface of datasets: rows with a prompt and an answer, a template, and a verifier."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, TypedDict, cast

from annotated_types import Ge, Gt

from r1.core.errors import UserError, errors_mounted_at
from r1.data.columns import Row as Row
from r1.data.completion import FORMS, parse
from r1.data.conversation import (
    Message,
    Prompt,
    Tools,
    as_messages,
    last_turn,
    with_instruction,
    with_system,
)
from r1.data.decoding import decode_completion
from r1.data.lenient import Reading
from r1.data.rows import Rows
from r1.data.split import question_hash
from r1.model.chat import Rendered
from r1.model.tokens import tokenize, tokenize_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overlong = Literal["error", "drop", "truncate_left"]
PUBLIC = ("answer", "subject", "level", "option_order", "terms", "part", "private_question")  # of a private question


class Verifier(ABC):
    """Decides whether stated answers are right. A config may also name a plain function ``f(answer, row) -> bool``."""

    @abstractmethod
    def __call__(self, answer: str, row: Row) -> bool:
        """Whether the one answer that a completion states is right for this row."""

    def verify_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        """``__call__`` for each of B answers; a subclass may compare them in parallel."""
        return [self(answer, row) for answer, row in zip(answers, rows, strict=True)]

    def score_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[float]:
        """A score from 0 to 1 for each of B answers, 1: right; a subclass may give partial credit."""
        return list(map(float, self.verify_batch(answers, rows)))

    def read(self, completion: str, row: Row) -> str | None:  # noqa: ARG002
        """The one answer that a completion states, or None; a subclass may read another form."""
        return parse(completion).answer

    def same(self, answers: Sequence[str], others: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        """Whether each two answers to a row's question are the same: each would be right if the other were gold."""
        forward = self.verify_batch(answers, [row | {"answer": other} for row, other in zip(rows, others, strict=True)])
        back = self.verify_batch(others, [row | {"answer": answer} for row, answer in zip(rows, answers, strict=True)])
        texts = [a.strip() == b.strip() for a, b in zip(answers, others, strict=True)]
        return [text or (a and b) for text, a, b in zip(texts, forward, back, strict=True)]

    def reads(self, rows: Sequence[Row]) -> list[bool]:
        """Whether each row's gold answer can be compared with others: by default, whether it is right itself."""
        return self.verify_batch([str(row["answer"]) for row in rows], rows)

    def check(self) -> None:  # noqa: B027
        """Raises: UserError: the verifier cannot work; called before any model is loaded."""

    def pop_error_counts(self) -> dict[str, int]:
        """Reason -> answers since the last call that it made wrong without a comparison, such as a time-out."""
        return {}


class FunctionVerifier(Verifier):
    """A plain function ``f(answer, row) -> bool`` as a verifier."""

    def __init__(self, function: Callable[[str, Row], bool]) -> None:
        self.function = function

    def __call__(self, answer: str, row: Row) -> bool:
        return bool(self.function(answer, row))


def as_verifier(verifier: Verifier | Callable[[str, Row], bool]) -> Verifier:
    return verifier if isinstance(verifier, Verifier) else FunctionVerifier(verifier)


class Template(Protocol):
    """How a question becomes the text that the model continues, and an example of that a text to learn.

    Attributes:
        own_text: what it puts before every question itself, such as a system message.
        chat_template: the Jinja template that replaces the tokenizer's; None: the tokenizer keeps its own.
    """

    own_text: str
    prefill: str
    chat_template: str | None

    def render(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, tools: Tools = None) -> str:
        """The whole text before the completion, special tokens and ``prefill`` included."""

    def complete(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: str, tools: Tools = None) -> str:
        """The text after ``render``'s that has the model learn ``completion``, the closing token included."""

    def learned(
        self, tokenizer: PreTrainedTokenizerBase, messages: list[Message], tools: Tools, mask_history: bool
    ) -> Rendered:
        """The text of a conversation, and the parts to learn: every assistant turn, or only the last one."""

    def end(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The token that closes a completion."""

    def with_variables(self, tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]) -> Template:
        """The same with further variables. Raises: UserError: it reads no variable of that name."""


class Example(NamedTuple):
    """The token ids of a conversation: those before the first one to learn, and the others.

    Attributes:
        is_learned: whether each of ``targets`` is learned; the first one is.
    """

    context: list[int]
    targets: list[int]
    is_learned: list[bool]


class DataOptions(TypedDict):
    """The knobs that every dataset option has (conf/data/_base.yaml)."""

    template: Template
    verifier: Verifier
    instruction: str | None
    terms: list[str] | None
    weight: Annotated[float, Gt(0)] | None
    max_prompt_length: Annotated[int, Ge(1)] | None
    overlong: Overlong
    keep_questions: bool
    reader: Reading


def data_options(options: DataOptions) -> DataOptions:
    """The knobs of ``Data`` itself, out of all options of a dataset."""
    return cast(DataOptions, {name: value for name, value in options.items() if name in DataOptions.__annotations__})


@dataclass
class Data:
    """A dataset: ``train`` rows to learn from, ``val`` rows held out, and how to render and to verify them.

    Attributes:
        train, val: views of rows (``rows.py``); lists of rows become such views.
        row_from_question: the row of a question typed by hand, for datasets that can work out its answer.
        is_held_out: whether a question must never be learned, in ``val`` or not; for datasets whose split is a property
            of the question.
        instruction: the end of every question, which asks for the form that the verifier reads; None: there is none.
            See ``added_instruction``.
        terms: the reward terms that apply to rows that do not name their own; None: all.
        weight: share of the rows of a mixture that this dataset is a part of.
        max_prompt_length: tokens of a prompt; None: no limit but the model's context.
        overlong: the treatment of rows that are longer: an error, left out, or without the first tokens of the prompt.
        keep_questions: records have the text of these questions; False: a hash of each (``recorded``).
        reader: where validation's second, lenient reading takes the answer from; strict: there is none.
        parts: the datasets that a mixture is made of, by the name that its rows carry as ``part``. The mixture's own
            template and verifier are for rows without one.
        counts: rows that were left out or changed, by metric.
    """

    train: Rows
    val: Rows
    template: Template
    verifier: Verifier
    row_from_question: Callable[[str], Row | None] | None = None
    is_held_out: Callable[[str], bool] | None = None
    instruction: str | None = None
    terms: list[str] | None = None
    weight: float | None = None
    max_prompt_length: int | None = None
    overlong: Overlong = "error"
    keep_questions: bool = True
    reader: Reading = "strict"
    parts: dict[str, Data] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.verifier = as_verifier(self.verifier)
        self.train, self.val = Rows.of(self.train), Rows.of(self.val)
        if self.terms is not None:
            self.train, self.val = (rows.with_defaults(terms=list(self.terms)) for rows in (self.train, self.val))
        if not self.keep_questions:
            self.train, self.val = (rows.with_defaults(private_question=True) for rows in (self.train, self.val))

    @property
    def sources(self) -> dict[str, Data]:
        """Config key -> dataset: the parts of a mixture, else this one."""
        return {f"data.parts.{name}": part for name, part in self.parts.items()} or {"data": self}

    def digest(self) -> str:
        """sha256 over the training and the held-out rows."""
        return hashlib.sha256(f"{self.train.digest()} {self.val.digest()}".encode()).hexdigest()

    def source_of(self, row: Row) -> tuple[str, Data]:
        """Config key and dataset that a row comes from; a mixture's row without ``part`` counts as the first part's."""
        if not self.parts:
            return "data", self
        name = row.get("part", next(iter(self.parts)))
        return f"data.parts.{name}", self.parts[name]

    def template_of(self, tokenizer: PreTrainedTokenizerBase, row: Row) -> Template:
        """How this row's question is rendered: its dataset's template, with the row's ``chat_template_kwargs``."""
        key, source = self.source_of(row)
        if not (variables := row.get("chat_template_kwargs")):
            return source.template
        with errors_mounted_at(key):
            return source.template.with_variables(tokenizer, variables)

    @property
    def added_instruction(self) -> str | None:
        """The instruction; None where all tags and boxes that it names are in the template's own text already."""
        forms = [form for form in FORMS if form in (self.instruction or "")]
        is_there = bool(forms) and all(form in self.template.own_text for form in forms)
        return None if is_there else self.instruction

    def question(self, row: Row) -> Prompt:
        """The prompt as template and teacher get it: with the row's system message and the dataset's instruction."""
        prompt = with_instruction(row["prompt"], self.source_of(row)[1].added_instruction)
        return with_system(as_messages(prompt), row["system"]) if row.get("system") else prompt

    def teacher_row(self, row: Row) -> Row:
        """The row as a teacher gets it: with the instruction, if there is one, at the end of its question."""
        instruction = self.source_of(row)[1].instruction
        return row | {"instructed": with_instruction(row["prompt"], instruction)} if instruction else row

    def prompt_text(self, tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
        """Everything before the completion. A row may carry its own ``rendered`` prompt text."""
        template = self.template_of(tokenizer, row)
        with errors_mounted_at(f"{self.source_of(row)[0]}.template"):
            return str(row.get("rendered") or template.render(tokenizer, self.question(row), row.get("tools")))

    def completion_text(self, tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
        """The text after ``prompt_text`` that the completion is learned from, its closing token included."""
        template = self.template_of(tokenizer, row)
        with errors_mounted_at(f"{self.source_of(row)[0]}.template"):
            return template.complete(tokenizer, self.question(row), row["completion"], row.get("tools"))

    def learned(self, tokenizer: PreTrainedTokenizerBase, row: Row, mask_history: bool = False) -> Rendered:
        """The text that a row is learned from, and the (start, end) of its parts to learn.

        Args:
            mask_history: of ``messages``, only the last assistant turn is learned.
        """
        if row.get("completion") is not None:
            prompt, completion = self.prompt_text(tokenizer, row), self.completion_text(tokenizer, row)
            return Rendered(prompt + completion, [(len(prompt), len(prompt + completion))])
        template = self.template_of(tokenizer, row)
        with errors_mounted_at(f"{self.source_of(row)[0]}.template"):
            return template.learned(tokenizer, self.conversation(row), row.get("tools"), mask_history)

    def conversation(self, row: Row) -> list[Message]:
        """``messages`` with the row's system message, and the dataset's instruction in the last question."""
        messages = with_system(row["messages"], row.get("system"))
        last = last_turn(messages)
        instructed = with_instruction(messages[:last], self.source_of(row)[1].added_instruction)
        return [*as_messages(instructed), *messages[last:]]

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, row: Row) -> list[int]:
        """Token ids of everything before the completion."""
        ids = tokenize(tokenizer, self.prompt_text(tokenizer, row))
        return ids[self.num_cut(row, len(ids)) :]

    def example(self, tokenizer: PreTrainedTokenizerBase, row: Row, mask_history: bool = False) -> Example:
        """Token ids of a whole conversation, tokenised at once; see ``learned``.

        A token that holds the end of the prompt and the start of the completion is one to learn.
        """
        text, spans = self.learned(tokenizer, row, mask_history)
        ids, is_learned = tokenize_spans(tokenizer, text, spans or [])
        end = len(ids) - is_learned[::-1].index(True)
        last_answer = end - [*is_learned[:end][::-1], False].index(False)
        cut = self.num_cut(row, last_answer)  # also through answers to earlier questions
        ids, is_learned = ids[cut:], is_learned[cut:]
        start = max(1, is_learned.index(True))  # the first token follows something
        return Example(ids[:start], ids[start:], is_learned[start:])

    def num_cut(self, row: Row, length: int) -> int:
        """The first tokens of a prompt of ``length`` tokens that are left out, with ``overlong: truncate_left``."""
        limit = self.truncates_to(row)
        return 0 if limit is None else max(0, length - limit)

    def truncates_to(self, row: Row) -> int | None:
        """The tokens that a longer prompt keeps, its last ones; None: prompts are not truncated."""
        source = self.source_of(row)[1]
        return source.max_prompt_length if source.overlong == "truncate_left" else None

    def text(
        self,
        tokenizer: PreTrainedTokenizerBase,
        row: Row,
        prompt_ids: Sequence[int],
        completion_ids: Sequence[int],
        truncated: bool,
        stop_text: str = "",
    ) -> str:
        """The text that rewards and readers see: the template's prefill and the completion without its end."""
        text = decode_completion(tokenizer, prompt_ids, completion_ids, truncated, stop_text)
        return self.source_of(row)[1].template.prefill + text

    def replace_chat_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Give the tokenizer the chat template of ``data.template.chat_template``, with which it is saved.

        Raises:
            UserError: the parts of a mixture have several.
        """
        own = {key: source.template.chat_template for key, source in self.sources.items()}
        texts = {key: text for key, text in own.items() if text is not None}
        for key, text in texts.items():
            if text != next(iter(texts.values())):
                message = "a model has one chat template, and this one differs from another part's"
                raise UserError(message, key=f"{key}.template.chat_template", hint="one file for all parts")
            tokenizer.chat_template = text

    def end_tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """The token that closes a completion, for each source's template."""
        tokens = []
        for key, source in self.sources.items():
            with errors_mounted_at(f"{key}.template"):
                tokens.append(source.template.end(tokenizer))
        return tokens

    def correct(self, completion: str, row: Row) -> bool | None:
        """Whether a whole completion (prefill included) states the right answer; None: the row has no gold answer."""
        return self.all_correct([completion], [row])[0]

    def all_correct(self, completions: Sequence[str], rows: Sequence[Row]) -> list[bool | None]:
        """``correct`` for each of B completions, faster: a verifier may look at a batch in parallel."""
        return verify_completions(self.verifier, read_answers(self.verifier, completions, rows), rows)

    def pop_error_counts(self) -> dict[str, int]:
        """The verifier's counts since the last call as metrics, ``scorer/timeouts``; empty if it counts nothing."""
        return {f"scorer/{reason}": count for reason, count in self.verifier.pop_error_counts().items()}


def read_answers(verifier: Verifier, completions: Sequence[str], rows: Sequence[Row]) -> list[str | None]:
    """The answer that each of B completions states, or None."""
    return [verifier.read(completion, row) for completion, row in zip(completions, rows, strict=True)]


def verify_completions(verifier: Verifier, answers: Sequence[str | None], rows: Sequence[Row]) -> list[bool | None]:
    """Whether each of B answers is right: None where the row has no gold answer; no answer, None, is not right."""
    return [None if verdict is None else bool(verdict) for verdict in _judge(verifier.verify_batch, answers, rows)]


def score_completions(verifier: Verifier, completions: Sequence[str], rows: Sequence[Row]) -> list[float | None]:
    """The score of each of B completions, 0 to 1: None where the row has no gold answer; 0 without an answer."""
    return _judge(verifier.score_batch, read_answers(verifier, completions, rows), rows)


def _judge(
    judge: Callable[[list[str], list[Row]], Sequence[float]], answers: Sequence[str | None], rows: Sequence[Row]
) -> list[float | None]:
    """``judge`` of the answers to rows with a gold answer."""
    indices = [b for b, answer in enumerate(answers) if answer is not None and has_answer(rows[b])]
    with errors_mounted_at("data.verifier"):
        scores = judge([str(answers[b]) for b in indices], [rows[b] for b in indices])
    score_of = {b: float(score) for b, score in zip(indices, scores, strict=True)}
    return [score_of.get(b, 0.0) if has_answer(row) else None for b, row in enumerate(rows)]


def without_instruction(row: Row) -> Row:
    """The dataset's row of ``Data.teacher_row``'s."""
    return {name: value for name, value in row.items() if name != "instructed"}


def recorded(row: Row) -> Row:
    """The row as a record has it: of a private question a hash, the gold answer, and what results are grouped by."""
    if not row.get("private_question"):
        return row
    public = {name: row[name] for name in PUBLIC if name in row}
    return {"prompt": f"question {question_hash(row).hex()[:16]}"} | public


def has_answer(row: Row) -> bool:
    """Whether there is a gold answer; an open-ended question has none."""
    return row.get("answer") is not None
