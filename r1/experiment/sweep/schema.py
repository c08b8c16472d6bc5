"""The format of W&B's sweep files, checked as strictly as a config: errors that show without composing a config."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from r1.config.check.models import check_value
from r1.core.errors import UserError, as_yaml_null, suggest
from r1.experiment.sweep.parameters import parameter_errors
from r1.experiment.sweep.values import wrong_value

DESCRIPTIVE_KEYS = ("name", "description", "entity", "project")
SWEEP_KEYS = (*DESCRIPTIVE_KEYS, "method", "metric", "parameters", "command", "early_terminate", "run_cap")
Goal = Literal["maximize", "minimize"]
Count = Annotated[int, Ge(1)]
HYPERBAND = {
    "type": Literal["hyperband"],
    "min_iter": Count,
    "max_iter": Count,
    "s": Count,
    "eta": Annotated[float, Gt(1)],
    "strict": bool,
}
MACROS = ("${env}", "${interpreter}", "${args_no_hyphens}")
COMMAND_HINT = 'command: ["${env}", "${interpreter}", "-m", "r1.run", ..., "logger=wandb", "${args_no_hyphens}"]'
METRIC_HINT = "metric: {name: val/pass@1, goal: maximize}"
UNUSED_WANDB_KEYS = {  # keys of W&B's format that have no effect on a run of r1 -> hint
    **dict.fromkeys(("program", "job", "image_uri"), "leave it out: command says what is run"),
    **dict.fromkeys(("scheduler", "controller"), "leave it out: W&B's own search, or python -m r1.sweep"),
    **dict.fromkeys(("apiVersion", "kind"), "leave it out"),
    "metrics": METRIC_HINT,
}
PARAMETERS_HINT = "parameters: {stage.group_size: {values: [4, 8]}}"
REQUIRED = {  # key -> hint
    "method": "method: grid, random or bayes",
    "metric": METRIC_HINT,
    "parameters": PARAMETERS_HINT,
    "command": f"without it W&B would run a program with --KEY=VALUE; {COMMAND_HINT}",
}


def sweep_file_errors(content: Any) -> list[UserError]:
    """Everything wrong with the content of a sweep file."""
    if not isinstance(content, dict):
        message = "a sweep file is a mapping of method, metric, parameters and command"
        return [UserError(message, key="file", value=as_yaml_null(content), expected=SWEEP_KEYS)]
    errors = list(unknown_key_errors(content, SWEEP_KEYS, "", UNUSED_WANDB_KEYS))
    errors += [error for key in DESCRIPTIVE_KEYS if key in content for error in _text_errors(content[key], key)]
    for key, check in CHECKS.items():
        if key in content:
            errors += check(content[key])
        elif key in REQUIRED:
            errors.append(UserError(f"`{key}` is missing", key=key, hint=REQUIRED[key]))
    if isinstance(specs := content.get("parameters"), dict):
        in_grid = content.get("method") == "grid"
        errors += [error for name, spec in specs.items() for error in parameter_errors(name, spec, in_grid)]
    return errors


def unknown_key_errors(
    node: dict[str, Any], known: Iterable[str], prefix: str, hints: dict[str, str] | None = None
) -> Iterator[UserError]:
    """Keys that are not ``known``, each with its entry in ``hints`` or the nearest known key."""
    for name in map(str, node):
        if name not in known:
            key, hint = f"{prefix}{name}", (hints or {}).get(name) or suggest(name, known)
            value = as_yaml_null(node.get(name))
            yield UserError(f"unknown key `{key}`", key=key, value=value, expected=known, hint=hint)


def _text_errors(value: Any, key: str) -> list[UserError]:
    return [] if isinstance(value, str) and value else [wrong_value(key, value, "text")]


def _metric_errors(metric: Any) -> Iterator[UserError]:
    if not isinstance(metric, dict):
        message = "`metric` is a mapping of name and goal"
        yield UserError(message, key="metric", value=as_yaml_null(metric), hint=METRIC_HINT)
        return
    yield from unknown_key_errors(metric, ("name", "goal"), "metric.")
    yield from _text_errors(metric.get("name"), "metric.name")
    if "goal" in metric:
        yield from check_value(metric["goal"], Goal, "metric.goal")
    else:
        hint = "goal: maximize; without it W&B minimises"
        yield UserError("`metric.goal` is missing", key="metric.goal", expected="maximize, minimize", hint=hint)


def _parameters_errors(specs: Any) -> Iterator[UserError]:
    if not isinstance(specs, dict) or not specs:
        message = "there is nothing to sweep over"
        yield UserError(message, key="parameters", value=as_yaml_null(specs), hint=PARAMETERS_HINT)


def _early_terminate_errors(spec: Any) -> Iterator[UserError]:
    key, hint = "early_terminate", "early_terminate: {type: hyperband, min_iter: 3}"
    if not isinstance(spec, dict):
        yield UserError("`early_terminate` is a mapping", key=key, value=as_yaml_null(spec), hint=hint)
        return
    yield from unknown_key_errors(spec, HYPERBAND, f"{key}.")
    if ("min_iter" in spec) == ("max_iter" in spec):
        message = "bands start at min_iter, or end at max_iter with s of them"
        yield UserError(message, key=key, value=", ".join(spec), expected="min_iter, or max_iter and s", hint=hint)
    elif ("max_iter" in spec) != ("s" in spec):
        present, missing = ("max_iter", "s") if "max_iter" in spec else ("s", "max_iter")
        yield UserError(f"{present} needs {missing}, too", key=f"{key}.{present}", hint="or min_iter alone")
    for name, kind in HYPERBAND.items():
        if name in spec or name == "type":
            yield from check_value(spec.get(name), kind, f"{key}.{name}")


def _command_errors(command: Any) -> Iterator[UserError]:
    def error(message: str, hint: str = COMMAND_HINT, value: Any = None) -> UserError:
        return UserError(message, key="command", value=value, hint=hint)

    if not isinstance(command, list) or not all(isinstance(part, str) for part in command):
        yield error("a command is a list of texts", value=as_yaml_null(command))
        return
    run = next((i for i, part in enumerate(command) if command[i - 1 : i + 1] == ["-m", "r1.run"]), None)
    if run is None:
        yield error("the command does not run r1", value=" ".join(command))
        return
    overrides = command[run + 1 :]
    if "${args_no_hyphens}" not in overrides:
        hint = 'write "${args_no_hyphens}" behind the overrides'
        yield error("the command does not take the parameters", hint, " ".join(overrides))
    elif command.count("${args_no_hyphens}") > 1:
        yield error("the command takes the parameters twice", "leave one ${args_no_hyphens} out")
    for part in command:
        yield from _macro_errors(part)
    if {"-m", "--multirun"} & {*overrides}:
        yield error("a point is one run", "leave out the -m behind r1.run: parameters say what varies", value="-m")


def _macro_errors(part: str) -> Iterator[UserError]:
    """``wandb agent`` silently drops a macro that it does not know."""
    if part in MACROS or not re.fullmatch(r"\$\{(?!envvar:).*\}", part):
        return
    message, hint = "the agent has no such macro, and drops it", suggest(part, MACROS)
    if part.startswith("${args"):
        message = "Hydra would refuse what the agent writes for this: it wants KEY=VALUE, unquoted and without dashes"
        hint = "write ${args_no_hyphens}"
    yield UserError(message, key="command", value=part, expected=MACROS, hint=hint)


CHECKS: dict[str, Callable[[Any], Iterable[UserError]]] = {
    "method": lambda value: check_value(value, Literal["grid", "random", "bayes"], "method"),
    "metric": _metric_errors,
    "parameters": _parameters_errors,
    "command": _command_errors,
    "early_terminate": _early_terminate_errors,
    "run_cap": lambda value: check_value(value, Count, "run_cap"),
}
