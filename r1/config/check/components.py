"""The built components against each other: rows, columns, verifier, template, lengths; no weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from r1.config.build import Experiment
from r1.config.check.callbacks import check_state_keys
from r1.config.check.resume_from import resume_from
from r1.config.check.templates import check_completions, check_templates
from r1.config.lengths import check_lengths, check_micro_batch_tokens
from r1.core.batch import chunks
from r1.core.console import console, status_line
from r1.core.errors import DATA, MODEL, REWARD, UserError, as_yaml_null, errors_mounted_at, suggest
from r1.core.provenance import flatten
from r1.core.types import Config
from r1.data.base import Data, Verifier, as_verifier
from r1.data.columns import LEARNED_INSTEAD, check_row
from r1.data.conversation import question_text
from r1.data.rows import Rows, Tally
from r1.data.store import remembered
from r1.reward.base import RewardFunction, Rewards, applies, required_columns, takes
from r1.reward.scorer import Scorer
from r1.stage.distillation.filters import Filters
from r1.stage.training.base import TrainingStage

ADVICE = {  # where no row has the column
    "chosen": "data.columns.chosen=NAME and data.columns.rejected=NAME",
    "rejected": "data.columns.chosen=NAME and data.columns.rejected=NAME",
    "completion": "data.columns.completion=NAME, or rows with `messages`; stage=distill has a teacher write them",
}
BATCH = 4096  # gold answers that are read at once
NUM_SHOWN, MAX_SHOWN = 3, 60  # gold answers in a note, and characters of each


def check_parts(cfg: Config, experiment: Experiment) -> None:
    """Check that the components fit each other.

    Raises:
        UserError: the first pair that does not.
    """
    _check_rows(experiment.data)
    resume_from(cfg, len(experiment.data.train))
    _check_counts(cfg, experiment)
    _check_terms(cfg, experiment)
    _check_columns(cfg, experiment)
    _check_stage_columns(experiment)
    _check_verifier(experiment)
    _check_by(experiment)
    _check_teacher(experiment)
    check_templates(experiment)
    check_completions(experiment)
    _check_rewards(experiment)
    experiment.model.check_layers()
    _check_vocabulary(cfg, experiment)
    check_state_keys(experiment.callbacks)
    _check_engine(experiment)  # a server has the length of its context
    check_lengths(experiment)
    check_micro_batch_tokens(experiment)


def _check_rows(data: Data) -> None:
    """The columns that r1 reads must have their types in every row, whatever made the dataset."""
    for key, source in data.sources.items():
        if not source.val:
            hint = "num_val holds training rows out"
            raise UserError("the dataset has no held-out rows", key=key, hint=hint, code=DATA)
    for split, rows in (("training", data.train), ("held-out", data.val)):
        for number, row in enumerate(() if rows.are_checked else rows, 1):
            check_row(row, f"{split} row {number}", data.source_of(row)[0])


def _check_counts(cfg: Config, experiment: Experiment) -> None:
    stage, num_rows = experiment.stage, len(experiment.data.train)
    num_questions = cfg["stage"].get("num_questions", 0)
    if num_questions > num_rows and not stage.writes_questions:
        message = f"the training split has {num_rows} questions"
        raise UserError(message, key="stage.num_questions", value=num_questions, hint=f"stage.num_questions={num_rows}")
    num_examples = num_questions * cfg["stage"].get("answers_per_question", 1) or num_rows
    if isinstance(stage, TrainingStage) and stage.plan.examples_per_step > num_examples:
        raise UserError(
            f"one optimizer step needs more examples than the {num_examples} there are to learn from",
            key="stage.examples_per_step",
            value=stage.plan.examples_per_step,
            expected=f"at most {num_examples}",
        )


def _check_terms(cfg: Config, experiment: Experiment) -> None:
    """Reward terms that a row names must exist, and one of them must have a weight."""
    known = experiment.rewards.terms
    weighted = {name for name, term in known.items() if term.weight is not None}
    for kind, _, _ in (experiment.data.train + experiment.data.val).tally():
        if (names := kind.terms) is None:
            continue
        if unknown := [name for name in names if name not in known]:
            raise UserError(
                f"a row is to be rewarded by `{unknown[0]}`, and this run has no such reward term",
                key=f"data.parts.{kind.part}.terms" if experiment.data.parts else "data.terms",
                value=list(names),
                expected=sorted(known),
                hint=suggest(unknown[0], known) or f"+reward/terms@reward.terms.{unknown[0]}=OPTION",
            )
        if "advantage" in cfg["stage"] and not weighted & {*names}:
            raise UserError(
                "a row has no reward term with a weight, so there is nothing to learn from it",
                key="data",
                value=list(names),
                expected=sorted(weighted),
                hint="leave the row out, or name a term with a weight",
            )


def _scoring_functions(experiment: Experiment, rows: list[Tally]) -> Iterator[tuple[str, RewardFunction, list[Tally]]]:
    """(key, function, the kinds of rows that it applies to) of every reward term and filter."""
    for name, term in experiment.rewards.terms.items():
        yield f"reward.terms.{name}", term.function, [row for row in rows if applies(name, {"terms": row.kind.terms})]
    for one in experiment.stage.filters.filters if experiment.stage.filters else ():
        yield f"stage.filters.{one.name}", one.function, rows


def _check_columns(cfg: Config, experiment: Experiment) -> None:
    """Every row must have the columns of the reward terms and filters that apply to it."""
    stage, data = experiment.stage, experiment.data
    all_rows = [*data.val.tally(), *(data.train.tally() if stage.trains or stage.predicts else [])]
    for key, function, rows in _scoring_functions(experiment, all_rows):
        columns = set.intersection(*(set(kind.columns) for kind, _, _ in rows)) if rows else set()
        needed = required_columns(function) if rows else set()
        for column in sorted(needed - columns):
            num_rows = sum(tally.num_rows for tally in rows)
            num_missing = sum(tally.num_rows for tally in rows if column not in tally.kind.columns)
            who = f"{num_missing} of {num_rows} rows lack" if num_missing < num_rows else "no row has"
            raise UserError(
                f"reward term `{key.rpartition('.')[2]}` needs the dataset column `{column}`, which {who}",
                key=key,
                value=flatten(cfg)[f"{key}._target_"],
                expected=f"columns of every row: {', '.join(sorted(columns))}",
                hint=suggest(column, columns) or f"leave the term out with ~{key}, or name it in no row",
                code=REWARD,
            )
        _check_gold_answers(cfg, experiment, key, function, rows)


def _check_gold_answers(
    cfg: Config, experiment: Experiment, key: str, function: RewardFunction, rows: list[Tally]
) -> None:
    """Raises: UserError: what is learned, chosen or evaluated by right answers has not one gold answer."""
    stage = experiment.stage
    is_decided = "advantage" in cfg["stage"] or not (stage.trains or stage.predicts) or key.startswith("stage.filters")
    has_answers = any(tally.kind.has("answer") for tally in rows) or not rows or stage.writes_questions
    if is_decided and takes(function, "verifier") and not has_answers:
        raise UserError(
            f"`{key.rpartition('.')[2]}` compares answers with the gold ones, and no row has one",
            key="data.columns.answer",
            value=as_yaml_null(cfg["data"].get("columns", {}).get("answer")),
            expected=f"one of the columns {', '.join(sorted(set().union(*(tally.kind.columns for tally in rows))))}",
            hint=f"leave `{key.rpartition('.')[2]}` out with ~{key}, or name the column of the answers",
            code=DATA,
        )


def _check_stage_columns(experiment: Experiment) -> None:
    """Every training row and held-out row must have text in the columns that the stage itself reads."""
    stage, data = experiment.stage, experiment.data
    for kind, rows, columns in (
        ("training", data.train, stage.required_columns),
        ("held-out", data.val, stage.val_columns),
    ):
        for column in columns:
            names = (column, LEARNED_INSTEAD.get(column, column))
            lacking = [tally for tally in rows.tally() if not any(map(tally.kind.has, names))]
            if num_missing := sum(tally.num_rows for tally in lacking):
                first = question_text(rows[lacking[0].first]["prompt"])
                raise UserError(
                    f"this stage learns the column `{column}`, which {num_missing} of {len(rows)} {kind} rows lack",
                    key="data",
                    value=sorted(set().union(*(tally.kind.columns for tally in rows.tally()))),
                    expected=f"text in `{column}`, also in the row of the question {first!r}",
                    hint=ADVICE[column] if num_missing == len(rows) else "complete these rows, or leave them out",
                    code=DATA,
                )


def _check_verifier(experiment: Experiment) -> None:
    """The verifier must read the gold answers, for each part of a mixture; those that it cannot read are noted."""
    for key, source in experiment.data.sources.items():
        if rows := (source.val + source.train).with_value("answer"):
            check_answers(f"{key}.verifier", source.verifier, rows, experiment.identity)
    if experiment.validation.verifier and (rows := experiment.data.val.with_value("answer")):
        check_answers("val.verifier", as_verifier(experiment.validation.verifier), rows, experiment.identity)


def check_answers(key: str, verifier: Verifier, rows: Rows, identity: Callable[[str], str]) -> None:
    """A verifier must read gold answers; those that it cannot read are noted.

    Args:
        key: of the verifier in the config.
        identity: of a key, all that decides the result besides the rows, see ``Experiment.identity``.

    Raises:
        UserError: it reads none.
    """
    with errors_mounted_at(key):
        verifier.check()

    def unread() -> list[int]:
        parts = ([rows[i] for i in part] for part in chunks(range(len(rows)), BATCH))
        are_read = [is_read for part in parts for is_read in verifier.reads(part)]
        return [i for i, is_read in enumerate(are_read) if not is_read]

    try:
        not_read = remembered(rows, lambda: ["unread answers", identity(key)], unread)
        if len(not_read) < len(rows):
            if not_read:
                counts = f"{len(not_read)} of {len(rows)} gold answers, so no other spelling of them is right"
                shown = ", ".join(repr(str(rows[i]["answer"])[:MAX_SHOWN]) for i in not_read[:NUM_SHOWN])
                console.print(status_line(f"note: {key} cannot read {counts}: {shown}"))
            return
        message = "the verifier reads none of the dataset's own answers"
    except Exception as error:  # a verifier meant for other columns may raise anything
        message = f"the verifier cannot read these rows: {type(error).__name__} {error}"
    raise UserError(
        message,
        key=key,
        value=rows[0]["answer"],
        hint="take the verifier that fits the data: data/verifier=exact, math, countdown or code",
        code=DATA,
    )


def _check_by(experiment: Experiment) -> None:
    """Results by the values of a column need that column."""
    tally = experiment.data.val.tally()
    for column in experiment.validation.by:
        if not any(kind.has(column) for kind, _, _ in tally):
            known = sorted({name for kind, _, _ in tally for name in kind.columns})
            message, hint = f"no held-out row has a column `{column}`", suggest(column, known)
            raise UserError(message, key="val.by", value=column, expected=known, hint=hint, code=DATA)


def _check_teacher(experiment: Experiment) -> None:
    """Query a teacher that costs nothing once now, so that its errors do not come after the first validation."""
    from r1.rollout.base import no_op
    from r1.teacher.base import questions
    from r1.teacher.procedural import Procedural

    teacher = experiment.stage.teacher
    if isinstance(teacher, Procedural):
        next(teacher.answer(questions(experiment.data.train[:1], 1, seed=0), no_op))


def _check_rewards(experiment: Experiment) -> None:
    """Score one gold completion of each part with every term and filter, so that their errors come now.

    Terms that load a model or query an endpoint are not run; their own ``check`` is.
    """
    filters = experiment.stage.filters
    tried = [Filters([one]) for one in filters.filters] if filters else []
    for name, term in experiment.rewards.terms.items():
        if isinstance(term.function, Scorer):
            with errors_mounted_at(f"reward.terms.{name}"):
                term.function.check()
    quick = {name: t for name, t in experiment.rewards.terms.items() if not isinstance(t.function, Scorer)}
    data = experiment.data
    firsts = {tally.kind.part: tally.first for tally in reversed(data.val.tally())}
    for row in (data.val[first] for first in firsts.values()):
        prompt = question_text(row["prompt"])
        completion = row.get("completion") or f"<think>{prompt}</think>\n<answer>{row.get('answer')}</answer>"
        batch: dict[str, Any] = {
            "completions": [completion],
            "rows": [row],
            "verifier": experiment.data.verifier,
            "completion_ids": [[0]],
            "truncated": [False],
            "max_completion_length": experiment.engine.max_completion_length,
        }
        Rewards(quick).score(prompts=[prompt], **batch)
        for single in tried:
            single.rejected_by(**batch)


def _check_vocabulary(cfg: Config, experiment: Experiment) -> None:
    config = experiment.model.load_config()
    vocabulary, num_tokens = getattr(config, "vocab_size", None), len(experiment.stage.tokenizer)
    if vocabulary is not None and num_tokens > vocabulary:
        raise UserError(
            f"the tokenizer has {num_tokens} tokens and the model only {vocabulary}",
            key="model.tokenizer",
            value=cfg["model"]["tokenizer"],
            hint="take the tokenizer that belongs to the model, or a larger model.config.vocab_size",
            code=MODEL,
        )


def _check_engine(experiment: Experiment) -> None:
    """A server that samples must run now, with the architecture that is trained; stop texts must be able to occur."""
    experiment.engine.check_model(experiment.model)
    with errors_mounted_at("val.sampling"):
        of_validation = experiment.validation.sampling_like(experiment.engine.sampling)
        experiment.engine.with_sampling(of_validation, experiment.stage.tokenizer)
