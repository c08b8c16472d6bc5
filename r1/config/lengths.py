"""Prompts and examples against ``data.max_prompt_length`` and the model's context: every row of them.

A prompt that is sampled from needs room for a completion. A row that is learned from is one text, prompt and answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from r1.config.row_bounds import RowBounds
from r1.core.batch import chunks
from r1.core.errors import DATA, UserError, as_yaml_null
from r1.data.base import Data, Overlong, Row
from r1.data.columns import COLUMNS, columns_learned
from r1.data.conversation import as_messages, without_weights
from r1.data.rows import Rows
from r1.data.store import remembered
from r1.data.template.chat import Chat, assistant
from r1.model.chat import RenderJob, render_batch
from r1.model.tokens import context_length, lengths_over, max_counted, tokenize
from r1.stage.training.base import TrainingStage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from r1.config.build import Experiment
    from r1.rollout.base import Engine

BATCH = 128  # rows whose conversations are rendered at once
NUM_SOLUTIONS = 256  # of the data that are measured for a note
Noun = Literal["prompt", "example", "truncated"]


class Limits(NamedTuple):
    """Most tokens of a prompt that is sampled from, and of an example that is learned from."""

    prompt: float
    example: float


class TooLong(NamedTuple):
    """A text of a row that has more tokens than it may.

    Attributes:
        noun: ``truncated``: a prompt whose first tokens are left out.
        key: config key of its dataset.
    """

    noun: Noun
    num_tokens: int
    limit: float
    key: str
    policy: Overlong

    @property
    def count_text(self) -> int | str:
        """The tokens as printed; a very long text is not counted to its end."""
        most = max_counted(self.limit)
        return self.num_tokens if self.num_tokens <= most else f"more than {most:g}"


def drop_overlong(experiment: Experiment) -> None:
    """Leave overlong rows out where ``overlong`` is ``drop``, and count those and the prompts that are truncated.

    Raises:
        UserError: no row is left.
    """
    data = experiment.data
    if all(source.overlong == "error" for source in data.sources.values()):
        return
    limits, counts = _limits(experiment), {"data/dropped": 0.0, "data/truncated": 0.0}
    for rows, columns in splits(experiment):
        too_long = find_too_long(experiment, rows, columns, limits)
        dropped = {i for i, texts in too_long.items() if any(t.policy == "drop" for t in texts)}
        counts["data/dropped"] += len(dropped)
        counts["data/truncated"] += sum(t.noun == "truncated" for texts in too_long.values() for t in texts)
        if rows and len(dropped) == len(rows):
            first = too_long[min(dropped)][0]
            message = f"all {len(rows)} rows are longer than {first.limit:g} tokens"
            raise UserError(message, key=f"{first.key}.overlong", value="drop", code=DATA)
        rows_left = rows.select([i for i in range(len(rows)) if i not in dropped])
        if rows is data.train:
            data.train = rows_left
        else:
            data.val = rows_left
    data.counts.update(counts)


def check_lengths(experiment: Experiment) -> None:
    """Raises: UserError: a row is too long, or ``max_prompt_length`` leaves no room for a completion."""
    limits = _limits(experiment)
    for key, source in experiment.data.sources.items():
        _check_truncation(key, source, limits.prompt)
    too_long = [find_too_long(experiment, rows, columns, limits) for rows, columns in splits(experiment)]
    texts = [
        text
        for texts_of_row in too_long
        for texts in texts_of_row.values()
        for text in texts
        if text.noun != "truncated"
    ]
    if texts:
        longest = max(texts, key=lambda text: text.num_tokens - text.limit)
        raise _error(longest, len(texts), limits, experiment.engine)


def check_micro_batch_tokens(experiment: Experiment) -> None:
    """Raises: UserError: the longest row, with its completion, has more tokens than a micro-batch may have."""
    stage = experiment.stage
    if not isinstance(stage, TrainingStage) or not stage.plan.micro_batch_tokens or stage.writes_questions:
        return
    max_tokens = stage.plan.micro_batch_tokens
    most = max_tokens // stage.texts_per_example
    limits = Limits(max(0, most - experiment.engine.max_completion_length), most)
    too_long = find_too_long(experiment, experiment.data.train, stage.required_columns, limits)
    excess = [text.num_tokens - text.limit for texts in too_long.values() for text in texts if text.noun != "truncated"]
    if excess:
        raise UserError(
            f"the longest row does not fit into a micro-batch of {max_tokens} tokens"
            + f", nor do {len(excess) - 1} others" * (len(excess) > 1),
            key="stage.micro_batch_tokens",
            value=max_tokens,
            expected=f"at least {(most + max(excess)) * stage.texts_per_example:g}",
            hint="a prompt counts with rollout.max_completion_length, a pair twice with its longer answer",
        )


def long_solutions(data: Data, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """A note where more than a tenth of the data's own solutions are longer than a completion may be; else empty."""
    rows = [row for row in data.train[:NUM_SOLUTIONS] if isinstance(row.get("completion"), str)]
    lengths = [len(tokenize(tokenizer, data.completion_text(tokenizer, row))) for row in rows]
    share = sum(length > max_length for length in lengths) / max(1, len(lengths))
    if share <= 0.1:
        return ""
    limit = f"rollout.max_completion_length={max_length}"
    return f"{share:.0%} of the data's own solutions are longer than {limit}, up to {max(lengths)} tokens"


def _check_truncation(key: str, source: Data, room: float) -> None:
    limit = source.max_prompt_length
    if source.overlong == "truncate_left" and (limit is None or limit > room):
        raise UserError(
            "truncated prompts need a length that leaves room for a completion in the model's context",
            key=f"{key}.max_prompt_length",
            value=as_yaml_null(limit),
            expected=f"at most {room:g}" if math.isfinite(room) else "a whole number",
        )


def _limits(experiment: Experiment) -> Limits:
    context, engine = context_length(experiment.model.load_config()), experiment.engine
    return Limits(min(context, engine.max_model_len or math.inf) - engine.max_completion_length, context)


def splits(experiment: Experiment) -> list[tuple[Rows, tuple[str, ...]]]:
    """(rows, the columns that are learned from) of the splits that the stage uses."""
    stage, data = experiment.stage, experiment.data
    uses_train = (stage.trains or stage.predicts) and not stage.writes_questions
    return [(data.train, stage.required_columns)] * uses_train + [(data.val, stage.val_columns)]


def find_too_long(experiment: Experiment, rows: Rows, columns: Sequence[str], most: Limits) -> dict[int, list[TooLong]]:
    """Index of a row -> its texts that have too many tokens."""

    def question() -> list[Any]:
        stage = experiment.stage
        return ["too long", experiment.identity("data"), type(stage).__name__, stage.text_options, columns, most]

    texts_by_row = remembered(rows, question, lambda: list(_find_too_long(experiment, rows, columns, most).items()))
    return {i: [TooLong(*text) for text in texts] for i, texts in texts_by_row}


def _find_too_long(
    experiment: Experiment, rows: Rows, columns: Sequence[str], most: Limits
) -> dict[int, list[TooLong]]:
    too_long: dict[int, list[TooLong]] = {}
    bounds = RowBounds(
        experiment.data,
        experiment.stage.tokenizer,
        columns,
        lambda row: ((text, limit) for _, text, limit in _texts(experiment, row, columns, most)),
    )
    for part in chunks(range(len(rows)), BATCH):
        read = [(i, row) for i in part if _is_valid(row := rows[i], columns) and not bounds.fits(row)]
        render_batch(job for _, row in read for job in _render_jobs(experiment, row, columns))
        texts = [(i, *text) for i, row in read for text in _texts(experiment, row, columns, most)]
        limits = [limit for _, _, _, limit in texts]
        lengths = lengths_over(experiment.stage.tokenizer, [text for _, _, text, _ in texts], limits)
        for position, num_tokens in lengths.items():
            i, noun, _, limit = texts[position]
            key, source = experiment.data.source_of(rows[i])
            too_long.setdefault(i, []).append(TooLong(noun, num_tokens, limit, key, source.overlong))
    return too_long


def _is_valid(row: Row, columns: Sequence[str]) -> bool:
    """Whether the model can read the row; the check of the columns has the message."""
    return all(COLUMNS[column].is_valid(row.get(column)) for column in ("prompt", *columns_learned(row, columns)))


def _render_jobs(experiment: Experiment, row: Row, columns: Sequence[str]) -> Iterator[RenderJob]:
    """The conversations of which ``_texts`` takes the text."""
    data, tokenizer = experiment.data, experiment.stage.tokenizer
    template = data.template_of(tokenizer, row)
    if not isinstance(template, Chat) or tokenizer.chat_template is None:
        return
    prompt = as_messages(data.question(row))
    answers = [[assistant(row[name])] for name in columns if isinstance(row.get(name), str)]
    talks = [data.conversation(row)] if "messages" in columns_learned(row, columns) else []
    for messages in [*([*prompt, *answer] for answer in answers or [[]]), *talks]:
        yield from template.jobs(tokenizer, without_weights(messages), row.get("tools"))


def _texts(experiment: Experiment, row: Row, columns: Sequence[str], most: Limits) -> Iterator[tuple[Noun, str, float]]:
    """(noun, text, most tokens) of everything of a row that the model reads."""
    data, stage = experiment.data, experiment.stage
    full, truncates_to = stage.full_texts(row, columns), data.truncates_to(row)
    limit = min(math.inf if full else most.prompt, data.source_of(row)[1].max_prompt_length or math.inf)
    cut = 0
    if math.isfinite(limit):
        prompt = data.prompt_text(stage.tokenizer, row)
        cut = 0 if truncates_to is None else data.num_cut(row, len(tokenize(stage.tokenizer, prompt)))
        yield ("prompt" if truncates_to is None else "truncated"), prompt, limit
    yield from (("example", text, most.example + cut) for text in full)


def _error(longest: TooLong, count: int, limits: Limits, engine: Engine) -> UserError:
    leave_out = f"{longest.key}.overlong=drop leaves such rows out"
    if longest.noun == "example":
        return UserError(
            "the longest example does not fit into the model's context" + f", nor do {count - 1} others" * (count > 1),
            key=longest.key,
            value=longest.count_text,
            expected=f"at most {longest.limit:g} tokens",
            hint=f"{leave_out}; or take a model with a longer context",
            code=DATA,
        )
    if longest.limit != limits.prompt:
        return UserError(
            f"{count} prompts are longer than {longest.limit:g} tokens, the longest has {longest.count_text}",
            key=f"{longest.key}.max_prompt_length",
            value=longest.limit,
            hint=f"{leave_out}, truncate_left the first tokens of their prompts",
            code=DATA,
        )
    context = limits.prompt + engine.max_completion_length
    room = context - longest.num_tokens
    longer = "take a model with a longer context"
    if context < limits.example:
        longer = f"set {longest.key}.max_prompt_length={limits.prompt:g}, or raise the engine's max_model_len"
    return UserError(
        f"the longest prompt has {longest.count_text} tokens: with {engine.max_completion_length} more it does not fit "
        f"into the context of {context:g}",
        key="rollout.max_completion_length",
        value=engine.max_completion_length,
        expected=f"at most {room:g}" if room > 0 else "nothing: the prompt alone is too long",
        hint=f"lower it; {leave_out}; or {longer}",
    )
