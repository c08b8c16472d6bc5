"""Tasks of the package reasoning-gym (Stojanovski et al. 2025, arXiv:2505.24760), procedural and seeded.

The package runs in a process of its own, r1/data/verifier/reasoning_gym_worker.py.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Unpack

from annotated_types import Gt

from r1.core.errors import DATA, UserError, suggest
from r1.core.worker_pool import WorkerDied
from r1.data.base import Data, Row, data_options
from r1.data.generated import GeneratedOptions
from r1.data.mixture import interleave
from r1.data.rows import Rows
from r1.data.split import split_of
from r1.data.verifier.reasoning_gym import query

BATCH = 16  # problems of one reply
TRIES = 40  # problems that are made, per wanted one: one in ten is held out
SECONDS = 120.0  # for one reply


def reasoning_gym(
    *,
    tasks: list[str],
    weights: list[Annotated[float, Gt(0)]] | None,
    options: dict[str, dict[str, Any]],
    **shared: Unpack[GeneratedOptions],
) -> Data:
    """Problems of ``tasks`` in the proportions of ``weights``, spread evenly; none comes twice.

    Args:
        options: task -> values of the package's own parameters of it.

    Raises:
        UserError: the package is not installed, a task or an option is none of it, or a task has too few problems.
    """
    check_tasks(tasks, weights, options)
    shares = weights or [1.0] * len(tasks)
    splits: dict[str, list[Rows]] = {"train": [], "val": []}
    for task, num_train, num_val in zip(
        tasks, divide(shared["num_train"], shares), divide(shared["num_val"], shares), strict=True
    ):
        rows = gym_rows(task, shared["seed"], options.get(task, {}), {"train": num_train, "val": num_val})
        for split, parts in splits.items():
            parts.append(Rows.of(rows[split]))
    train, val = interleave(splits["train"]), interleave(splits["val"])
    return Data(train=train, val=val, **data_options(shared))


def check_tasks(tasks: list[str], weights: list[float] | None, options: dict[str, dict[str, Any]]) -> None:
    """Raises: UserError."""
    known: list[str] = query({}, SECONDS)
    if not tasks or len(set(tasks)) < len(tasks):
        raise UserError("a dataset has one task or more, each once", key=".tasks", value=tasks, expected=known)
    for key, names, expected in ((".tasks", tasks, known), (".options", list(options), tasks)):
        if unknown := [name for name in names if name not in expected]:
            message, hint = f"there is no task `{unknown[0]}`", suggest(unknown[0], expected)
            raise UserError(message, key=key, value=unknown[0], expected=expected, hint=hint)
    if weights is not None and len(weights) != len(tasks):
        message, expected_count = "every task has one weight", f"{len(tasks)} numbers, or null"
        raise UserError(message, key=".weights", value=weights, expected=expected_count)


def divide(total: int, shares: list[float]) -> list[int]:
    """``total`` rows in these proportions: rounded sums, so that none is lost."""
    bounds = [round(total * sum(shares[:i]) / sum(shares)) for i in range(len(shares) + 1)]
    return [end - start for start, end in pairwise(bounds)]


def gym_rows(task: str, seed: int, options: dict[str, Any], counts: dict[str, int]) -> dict[str, list[Row]]:
    """Different problems of a task, by split, which the question's hash decides: ``counts`` of each.

    Raises:
        UserError: the package refuses the options, or there are fewer problems.
    """
    rows: dict[str, dict[str, Row]] = {split: {} for split in counts}
    problem = {"task": task, "seed": seed, "options": options}
    for start in range(0, TRIES * sum(counts.values()), BATCH):
        if all(len(rows[split]) >= count for split, count in counts.items()):
            break
        for index, question, answer in problems(problem | {"index": start, "count": BATCH}):
            split = split_of(question)
            row = {"prompt": question, "answer": answer, "task": task, "problem": problem | {"index": index}}
            if len(rows[split]) < counts[split]:
                rows[split].setdefault(question, row)
    for split, count in counts.items():
        if len(rows[split]) < count:
            message = f"`{task}` has not that many different problems: {len(rows[split])} of {count} were made"
            hint = "lower it, or make the task larger with +data.options"
            raise UserError(message, key=f".num_{split}", value=count, hint=hint, code=DATA)
    return {split: list(by_question.values()) for split, by_question in rows.items()}


def problems(job: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Consecutive problems: index, question, answer. Raises: UserError: the package makes none with these options."""
    try:
        reply = query(job, SECONDS)
    except (TimeoutError, WorkerDied) as error:
        reply = f"{type(error).__name__} after at most {SECONDS:g} s"
    if isinstance(reply, str):
        key, message = f".options.{job['task']}", f"reasoning-gym makes no problem of `{job['task']}`: {reply[:200]}"
        raise UserError(message, key=key, value=job["options"], code=DATA)
    return [(index, question, answer) for index, question, answer in reply]
