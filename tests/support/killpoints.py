"""Named moments at which a process kills itself: functions wrapped from outside, so r1 holds no code for it."""

from __future__ import annotations

import importlib
import io
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Point:
    """The ``call``-th call of ``place`` that has ``match`` in one of its arguments.

    Attributes:
        place: ``module:function`` or ``module:Class.method``, as it is looked up by its callers.
        when: ``before`` or ``after`` the call, or ``torn``: in the middle of what it does.
        number: the signal that the process sends itself; SIGKILL ends it there.
        second: another signal, right behind it.
    """

    place: str
    when: str = "before"
    call: int = 1
    match: str = ""
    number: int = signal.SIGKILL
    second: int | None = None


def arm(point: Point) -> None:
    """From now on this process ends at ``point``."""
    module, _, path = point.place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for step in owners:
        owner = getattr(owner, step)
    setattr(owner, name, _armed(getattr(owner, name), point))


def _armed(original: Callable[..., Any], point: Point) -> Callable[..., Any]:
    calls = 0

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += _matches((*args, *kwargs.values()), point.match)
        here = calls == point.call and _matches((*args, *kwargs.values()), point.match)
        if here and point.when == "torn":
            HALVES[point.place](original, *args, **kwargs)
        if here and point.when != "after":
            send(point)
        result = original(*args, **kwargs)
        if here and point.when == "after":
            send(point)
        return result

    return wrapped


def send(point: Point) -> None:
    signal.raise_signal(point.number)
    if point.second is not None:
        signal.raise_signal(point.second)


def fill_the_disk(first: int, last: int) -> None:
    """From the ``first`` to the ``last`` attempt at a checkpoint, no file may grow to the size of one."""
    from r1.train.checkpoint import Checkpoints

    original, calls = Checkpoints.save, []

    def save(self: Checkpoints, trainer: Any) -> None:
        calls.append(trainer.global_step)
        room = 300_000 if first <= len(calls) <= last else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        original(self, trainer)

    Checkpoints.save = save  # type: ignore[method-assign]


def _matches(values: tuple[Any, ...], text: str) -> bool:
    return not text or any(text in str(value) for value in values if isinstance(value, str | Path))


def half_of_the_lines(append: Callable[..., Any], file: Path, rows: Any, sync: bool = False) -> None:
    before = file.stat().st_size if file.exists() else 0
    append(file, rows)
    os.truncate(file, (before + file.stat().st_size) // 2)


def half_of_the_answers(add: Callable[..., Any], store: Any, rows: Any) -> None:
    before = store.file.stat().st_size
    add(store, rows)
    os.truncate(store.file, (before + store.file.stat().st_size) // 2)


def half_of_the_checkpoint(save: Callable[..., Any], state: Any, target: Any) -> None:
    whole = io.BytesIO()
    save(state, whole)
    target.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    target.flush()


def half_of_the_folder(rmtree: Callable[..., Any], folder: Path, *args: Any, **kwargs: Any) -> None:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    for file in files[: len(files) // 2]:
        file.unlink()


def only_the_weights(export: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """An exported folder of which the tokenizer is missing and the weights are cut short."""
    export(*args, **kwargs)
    folder = args[3]
    for file in folder.glob("tokenizer*"):
        file.unlink()
    os.truncate(folder / "model.safetensors", 1000)


HALVES = {
    "r1.core.jsonl:append_rows": half_of_the_lines,
    "r1.stage.distillation.answer_cache:AnswerCache.add": half_of_the_answers,
    "torch:save": half_of_the_checkpoint,
    "shutil:rmtree": half_of_the_folder,
    "r1.model.loading:export": only_the_weights,
}
