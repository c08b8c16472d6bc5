"""The format of W&B's sweep files, as strict as a config: what a file says wrong without any config being composed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from r1.core.errors import UserError, as_yaml_null, suggest
from r1.experiment.sweep.parameters import parameter

Node = dict[str, Any]
ABOUT = ("name", "description", "entity", "project")
KEYS = (*ABOUT, "method", "metric", "parameters", "command", "early_terminate", "run_cap")
NOT_READ = {  # keys that W&B's format has, and that no run of r1 would see
    "program": "leave it out: command says what is run",
    "job": "leave it out: command says what is run",
    "image_uri": "leave it out: command says what is run",
    "metrics": "metric: {name: val/pass@1, goal: maximize}",
    "scheduler": "leave it out: W&B's own search, or python -m r1.sweep",
    "controller": "leave it out: W&B's own search, or python -m r1.sweep",
    "apiVersion": "leave it out",
    "kind": "leave it out",
}
METHODS = ("grid", "random", "bayes")
GOALS = ("maximize", "minimize")
MACROS = ("${env}", "${interpreter}", "${args_no_hyphens}")
START = ["${env}", "${interpreter}", "-m", "r1.run"]
DO_COMMAND = 'command: ["${env}", "${interpreter}", "-m", "r1.run", ..., "logger=wandb", "${args_no_hyphens}"]'


def problems(held: Any) -> list[UserError]:
    """Everything wrong with what a file holds."""
    if not isinstance(held, dict):
        message = "a sweep file is a mapping of method, metric, parameters and command"
        return [UserError(message, key="file", value=as_yaml_null(held), expected=KEYS)]
    found = list(unknown(held, KEYS, "", NOT_READ))
    for key, check in CHECKS.items():
        if key in held:
            found += check(held[key])
        elif key in REQUIRED:
            found.append(UserError(f"`{key}` is missing", key=key, hint=REQUIRED[key]))
    if isinstance(specs := held.get("parameters"), dict):
        found += [p for name, spec in specs.items() for p in parameter(name, spec, held.get("method") == "grid")]
    return found


def unknown(
    node: Node, known: Iterable[str], prefix: str, not_read: dict[str, str] | None = None
) -> Iterator[UserError]:
    """Keys that nothing reads, each with the nearest that something does."""
    for key in map(str, node):
        if key not in known:
            hint = (not_read or {}).get(key) or suggest(key, known)
            message = f"unknown key `{prefix}{key}`: nothing reads it"
            yield UserError(message, key=f"{prefix}{key}", value=as_yaml_null(node.get(key)), expected=known, hint=hint)


def _one_of(where: str, allowed: tuple[str, ...]) -> Callable[[Any], Iterator[UserError]]:
    def check(value: Any) -> Iterator[UserError]:
        if value not in allowed:
            hint = suggest(str(value), allowed)
            yield UserError(
                f"wrong value for `{where}`", key=where, value=as_yaml_null(value), expected=allowed, hint=hint
            )

    return check


def _text(where: str) -> Callable[[Any], Iterator[UserError]]:
    def check(value: Any) -> Iterator[UserError]:
        if not isinstance(value, str) or not value:
            yield UserError(f"wrong value for `{where}`", key=where, value=as_yaml_null(value), expected="text")

    return check


def _count(value: Any, where: str, least: int = 1) -> Iterator[UserError]:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        expected = f"whole number >= {least}"
        yield UserError(f"wrong value for `{where}`", key=where, value=as_yaml_null(value), expected=expected)


def _metric(metric: Any) -> Iterator[UserError]:
    if not isinstance(metric, dict):
        hint = "metric: {name: val/pass@1, goal: maximize}"
        yield UserError("`metric` is a mapping of name and goal", key="metric", value=as_yaml_null(metric), hint=hint)
        return
    yield from unknown(metric, ("name", "goal"), "metric.")
    yield from _text("metric.name")(metric.get("name"))
    if "goal" in metric:
        yield from _one_of("metric.goal", GOALS)(metric["goal"])
    else:
        hint = "goal: maximize; without it W&B minimises"
        yield UserError("`metric.goal` is missing", key="metric.goal", expected=GOALS, hint=hint)


def _parameters(specs: Any) -> Iterator[UserError]:
    if not isinstance(specs, dict) or not specs:
        hint = "parameters: {stage.group_size: {values: [4, 8]}}"
        yield UserError("there is nothing to sweep over", key="parameters", value=as_yaml_null(specs), hint=hint)


def _early_terminate(spec: Any) -> Iterator[UserError]:
    where, hint = "early_terminate", "early_terminate: {type: hyperband, min_iter: 3}"
    if not isinstance(spec, dict):
        yield UserError("`early_terminate` is a mapping", key=where, value=as_yaml_null(spec), hint=hint)
        return
    yield from unknown(spec, ("type", "min_iter", "max_iter", "s", "eta", "strict"), f"{where}.")
    yield from _one_of(f"{where}.type", ("hyperband",))(spec.get("type"))
    if {"min_iter", "max_iter"} <= spec.keys() or not {"min_iter", "max_iter"} & spec.keys():
        message = "bands start at min_iter, or end at max_iter with s of them"
        yield UserError(message, key=where, value=", ".join(spec), expected="min_iter, or max_iter and s", hint=hint)
    elif ("max_iter" in spec) != ("s" in spec):
        missing, message = ("s", "max_iter") if "max_iter" in spec else ("max_iter", "s")
        yield UserError(f"{message} asks for {missing}, too", key=f"{where}.{message}", hint="or min_iter alone")
    for key in {"min_iter", "max_iter", "s"} & spec.keys():
        yield from _count(spec[key], f"{where}.{key}")
    eta, strict = spec.get("eta", 3), spec.get("strict", True)
    if isinstance(eta, bool) or not isinstance(eta, int | float) or eta <= 1:
        yield UserError("wrong value for `eta`", key=f"{where}.eta", value=as_yaml_null(eta), expected="number > 1")
    if not isinstance(strict, bool):
        yield UserError("wrong value for `strict`", key=f"{where}.strict", value=strict, expected="true or false")


def _command(command: Any) -> Iterator[UserError]:
    def wrong(what: str, do: str = DO_COMMAND, given: Any = None) -> UserError:
        return UserError(what, key="command", value=given, hint=do)

    if not isinstance(command, list) or not all(isinstance(part, str) for part in command):
        yield wrong("a command is a list of texts", given=as_yaml_null(command))
        return
    run = next((i for i, part in enumerate(command) if command[i - 1 : i + 1] == ["-m", "r1.run"]), None)
    if run is None:
        yield wrong("the command does not run r1", given=" ".join(command))
        return
    if "${args_no_hyphens}" not in command[run:]:
        do = 'write "${args_no_hyphens}" behind the overrides'
        yield wrong("the command does not take the parameters", do, " ".join(command[run + 1 :]))
    elif command.count("${args_no_hyphens}") > 1:
        yield wrong("the command takes the parameters twice", "leave one ${args_no_hyphens} out")
    for part in command:
        yield from _macro(part)
    if {"-m", "--multirun"} & {*command[run + 1 :]}:
        yield wrong("a point is one run", "leave out the -m behind r1.run: parameters say what varies", given="-m")


def _macro(part: str) -> Iterator[UserError]:
    """``wandb agent`` drops a macro that it does not know without a word."""
    if re.fullmatch(r"\$\{(?!envvar:).*\}", part) and part not in MACROS:
        message = "the agent knows no such macro, and drops it"
        hint = suggest(part, MACROS)
        if part.startswith("${args"):
            message = (
                "Hydra would refuse what the agent writes for this: it wants KEY=VALUE, unquoted and without dashes"
            )
            hint = "write ${args_no_hyphens}"
        yield UserError(message, key="command", value=part, expected=MACROS, hint=hint)


REQUIRED = {
    "method": "method: grid, random or bayes",
    "metric": "metric: {name: val/pass@1, goal: maximize}",
    "parameters": "parameters: {stage.group_size: {values: [4, 8]}}",
    "command": f"without it W&B would run a program with --KEY=VALUE; {DO_COMMAND}",
}
CHECKS: dict[str, Callable[[Any], Iterator[UserError]]] = {
    **{key: _text(key) for key in ABOUT},
    "method": _one_of("method", METHODS),
    "metric": _metric,
    "parameters": _parameters,
    "command": _command,
    "early_terminate": _early_terminate,
    "run_cap": lambda value: _count(value, "run_cap"),
}
