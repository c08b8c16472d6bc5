"""Points at which a process sends itself a signal. The functions are wrapped by the tests: r1 has no code for it."""

from __future__ import annotations

import importlib
import io
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Point:
    """The ``call``-th call of ``target`` that has ``match`` in one of its arguments.

    Attributes:
        target: ``module:function`` or ``module:Class.method``, under the name that its callers use.
        when: ``before`` or ``after`` the call, ``torn``: with half of its effect, or ``hang``: it never returns.
        number: the signal that the process sends itself.
        second: another signal, sent right after it.
    """

    target: str
    when: str = "before"
    call: int = 1
    match: str = ""
    number: int = signal.SIGKILL
    second: int | None = None


def arm(point: Point) -> None:
    """Make this process send itself a signal at ``point``."""
    owner, name = resolve(point.target)
    setattr(owner, name, _armed(getattr(owner, name), point))


def resolve(target: str) -> tuple[Any, str]:
    """The module or class of a function, and the function's name."""
    module, _, path = target.partition(":")
    *classes, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for class_name in classes:
        owner = getattr(owner, class_name)
    return owner, name


def _armed(original: Callable[..., Any], point: Point) -> Callable[..., Any]:
    calls = 0

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += _matches((*args, *kwargs.values()), point.match)
        is_reached = calls == point.call and _matches((*args, *kwargs.values()), point.match)
        if is_reached and point.when == "torn":
            HALVES[point.target](original, *args, **kwargs)
        if is_reached and point.when != "after":
            send(point)
        result = original(*args, **kwargs)
        if is_reached and point.when == "after":
            send(point)
        return result

    return wrapped


def send(point: Point) -> None:
    os.write(2, f"point reached at {time.monotonic()}\n".encode())
    if point.when == "hang":
        time.sleep(3600)
    signal.raise_signal(point.number)
    if point.second is not None:
        signal.raise_signal(point.second)


def fill_the_disk(first: int, last: int) -> None:
    """From the ``first`` to the ``last`` attempt at a checkpoint, no file may be as large as one."""
    from r1.train.checkpoint import Checkpoints

    original, calls = Checkpoints.save, []

    def save(self: Checkpoints, trainer: Any) -> None:
        calls.append(trainer.global_step)
        max_bytes = 300_000 if first <= len(calls) <= last else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, resource.RLIM_INFINITY))
        original(self, trainer)

    Checkpoints.save = save  # type: ignore[method-assign]


def _matches(values: tuple[Any, ...], text: str) -> bool:
    return not text or any(text in str(value) for value in values if isinstance(value, str | Path))


def half_of_the_lines(append: Callable[..., Any], file: Path, rows: Any, **options: Any) -> None:
    before = file.stat().st_size if file.exists() else 0
    append(file, rows, **options)
    os.truncate(file, (before + file.stat().st_size) // 2)


def half_of_the_answers(add: Callable[..., Any], store: Any, rows: Any) -> None:
    before = store.file.stat().st_size
    add(store, rows)
    os.truncate(store.file, (before + store.file.stat().st_size) // 2)


def half_of_the_checkpoint(save: Callable[..., Any], state: Any, target: Any) -> None:
    buffer = io.BytesIO()
    save(state, buffer)
    target.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    target.flush()


def half_of_the_folder(rmtree: Callable[..., Any], folder: Path, *args: Any, **kwargs: Any) -> None:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    for file in files[: len(files) // 2]:
        file.unlink()


def only_the_weights(export: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """An exported folder without the tokenizer, and with truncated weights."""
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
    "r1.stage.base:export": only_the_weights,
}
