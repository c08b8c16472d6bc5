"""The built parts against each other: rows, columns, verifier, template, lengths; no weights are loaded for it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

from r1.build import Experiment
from r1.check.schema import resolve
from r1.data.base import Row
from r1.data.template.base import template_prefill
from r1.errors import DATA, MODEL, REWARD, UserError, nearest
from r1.reward.base import RESERVED, required_columns
from r1.stage.filters import Filters

Config = dict[str, Any]
NUM_LONGEST = 256  # prompts whose tokens are counted: those with the most characters
NUM_VERIFIED = 8  # gold answers shown to the verifier


def check_parts(cfg: Config, experiment: Experiment) -> None:
    """Raises: UserError: the first thing that does not fit."""
    _check_counts(cfg, experiment)
    _check_columns(cfg, experiment)
    _check_needs(experiment)
    _check_verifier(experiment)
    _check_teacher(experiment)
    _check_prefill(experiment)
    _check_rewards(experiment)
    _check_vocabulary(cfg, experiment)
    _check_lengths(experiment)


def _check_counts(cfg: Config, experiment: Experiment) -> None:
    stage, num_rows, num_val = experiment.stage, len(experiment.data.train), len(experiment.data.val)
    asked = cfg["stage"].get("num_questions", 0)
    if asked > num_rows and not stage.writes_questions:
        what = f"the training split has {num_rows} questions"
        raise UserError(what, where="stage.num_questions", given=asked, do=f"stage.num_questions={num_rows}")
    num_examples = asked * cfg["stage"].get("answers_per_question", 1) or num_rows
    if stage.trains and stage.plan.examples_per_step > num_examples:
        raise UserError(
            f"one optimizer step needs more examples than the {num_examples} there are to learn from",
            where="stage.examples_per_step",
            given=stage.plan.examples_per_step,
            allowed=f"at most {num_examples}",
        )
    if experiment.validation.num_prompts > num_val:
        raise UserError(
            f"the held-out split has {num_val} rows",
            where="val.num_prompts",
            given=experiment.validation.num_prompts,
            allowed=f"at most {num_val}",
        )


def _check_columns(cfg: Config, experiment: Experiment) -> None:
    """Every column that a reward term or a filter asks for must be in every row."""
    stage, terms = experiment.stage, cfg["reward"]["terms"]
    rows = [*experiment.data.val, *(experiment.data.train if stage.trains or stage.predicts else [])]
    columns = set.intersection(*map(set, rows))
    if taken := sorted(columns & set(RESERVED)):
        raise UserError("this column name is reserved", where="data", given=taken[0], do="rename the column", code=DATA)
    nodes = {f"reward.terms.{name}": node for name, node in terms.items()}
    nodes |= {f"stage.filters.{name}": node for name, node in cfg["stage"].get("filters", {}).items()}
    for where, node in nodes.items():
        function = resolve(node["_target_"], where, cfg["extensions"])
        for column in sorted(required_columns(function, node.keys()) - columns):
            lacking = sum(column not in row for row in rows)
            some = f", which {lacking} of {len(rows)} rows lack" if lacking < len(rows) else ", which no row has"
            raise UserError(
                f"reward term `{where.rpartition('.')[2]}` needs the dataset column `{column}`{some}",
                where=where,
                given=node["_target_"],
                allowed=f"columns of every row: {', '.join(sorted(columns))}",
                do=nearest(column, columns) or f"leave the term out with ~{where}",
                code=REWARD,
            )


def _check_needs(experiment: Experiment) -> None:
    """What the stage itself reads of every training row."""
    train = experiment.data.train
    for column in experiment.stage.needs_columns:
        if lacking := sum(not row.get(column) for row in train):
            raise UserError(
                f"this stage learns the column `{column}`, which {lacking} of {len(train)} training rows lack",
                where="data",
                given=sorted(set().union(*train)),
                allowed=f"rows with text in `{column}`",
                do=f"data.{column}_column=NAME for data=jsonl, or stage=distill to have a teacher write them",
                code=DATA,
            )


def _check_verifier(experiment: Experiment) -> None:
    """The dataset's own answers must be right, or no completion ever will be."""
    rows = [row for row in experiment.data.val[:NUM_VERIFIED] if "answer" in row]
    try:
        if any(experiment.data.verifier(row["answer"], row) for row in rows):
            return
        reason = "the verifier calls the dataset's own answers wrong"
    except Exception as error:  # a verifier meant for other columns may raise anything
        reason = f"the verifier cannot read these rows: {type(error).__name__} {error}"
    raise UserError(
        reason,
        where="data.verifier",
        given=rows[0]["answer"] if rows else None,
        do="take the verifier that fits the data: data/verifier=exact, math or countdown",
        code=DATA,
    )


def _check_teacher(experiment: Experiment) -> None:
    """A teacher that costs nothing is asked one question now, not after the first validation."""
    from r1.rollout.base import carry_on
    from r1.teacher.base import questions
    from r1.teacher.procedural import Procedural

    teacher = getattr(experiment.stage, "teacher", None)
    if isinstance(teacher, Procedural):
        next(teacher.answer(questions(experiment.data.train[:1], 1, seed=0), carry_on))


def _check_prefill(experiment: Experiment) -> None:
    """A tag that the template itself opens never shows up in a completion: rewards must be told to count it."""
    stage, template = experiment.stage, experiment.data.template
    rendered = template.render(stage.tokenizer, experiment.data.val[0]["prompt"])
    opened = template_prefill(rendered).strip()
    if opened and opened not in template.prefill:
        raise UserError(
            f"the prompt ends with {opened}, so no completion can contain it and a format reward would stay at 0",
            where="data.template.prefill",
            given=template.prefill,
            allowed=repr(opened),
            do=f"""data.template.prefill="'{opened}'" makes it count as part of each completion""",
        )


def _check_rewards(experiment: Experiment) -> None:
    """One gold completion through every term and filter: one that raises or returns no numbers does so now."""
    row = experiment.data.val[0]
    completion = row.get("completion") or f"<think>{row['prompt']}</think>\n<answer>{row.get('answer')}</answer>"
    shown: dict[str, Any] = {
        "completions": [completion],
        "rows": [row],
        "verifier": experiment.data.verifier,
        "completion_ids": [[0]],
        "truncated": [False],
        "max_completion_length": experiment.engine.max_completion_length,
    }
    experiment.rewards.score(prompts=[row["prompt"]], **shown)
    filters = getattr(experiment.stage, "filters", None)
    if isinstance(filters, Filters):
        for one in filters.filters:
            Filters([one]).rejected_by(**shown)


def _check_vocabulary(cfg: Config, experiment: Experiment) -> None:
    config = experiment.model.load_config()
    vocabulary, num_tokens = getattr(config, "vocab_size", None), len(experiment.stage.tokenizer)
    if vocabulary is not None and num_tokens > vocabulary:
        raise UserError(
            f"the tokenizer has {num_tokens} tokens and the model only {vocabulary}",
            where="model.tokenizer",
            given=cfg["model"]["tokenizer"],
            do="take the tokenizer that belongs to the model, or a larger model.config.vocab_size",
            code=MODEL,
        )


def _check_lengths(experiment: Experiment) -> None:
    """The longest prompt with a whole completion, and the longest completion to learn, must fit into the context."""
    context = getattr(experiment.model.load_config(), "max_position_embeddings", None)
    if context is None:
        return
    data, tokenizer, limit = experiment.data, experiment.stage.tokenizer, experiment.engine.max_completion_length
    rows = [*data.train, *data.val[: experiment.validation.num_prompts]]
    longest = max(len(data.prompt_ids(tokenizer, row)) for row in _longest(rows, "rendered", "prompt"))
    if longest + limit > context:
        raise UserError(
            f"the longest prompt has {longest} tokens: with {limit} more it does not fit into the context of {context}",
            where="rollout.max_completion_length",
            given=limit,
            allowed=f"at most {context - longest}" if longest < context else "nothing: the prompt alone is too long",
            do="lower it, shorten the prompts, or take a model with a longer context",
        )
    if "completion" in experiment.stage.needs_columns:
        rows = _longest(data.train, "rendered", "prompt", "completion")
        longest = max(len(data.prompt_ids(tokenizer, r)) + len(data.completion_ids(tokenizer, r)) for r in rows)
        if longest > context:
            what = "the longest training example does not fit into the model's context"
            do = "leave out such rows, or take a model with a longer context"
            raise UserError(what, where="data", given=longest, allowed=f"at most {context} tokens", do=do, code=DATA)


def _longest(rows: Iterable[Row], *columns: str) -> list[Row]:
    """The rows with the most characters in ``columns``."""
    return heapq.nlargest(NUM_LONGEST, rows, key=lambda row: sum(len(row.get(column) or "") for column in columns))
