"""Checks before anything heavy: first the composed config against the code's signatures, then the parts against each
other (batch arithmetic, columns, template, lengths). Everything wrong is said at once; nothing unknown is let through.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, MinLen

from r1.errors import CONFIG, DATA, REWARD, UserError, nearest
from r1.schema import check_value, problems, resolve

if TYPE_CHECKING:
    from r1.build import Experiment

Config = dict[str, Any]
GROUPS = ("model", "data", "teacher", "stage", "rollout", "val", "trainer", "logger")
PLAIN: dict[str, Any] = {
    "seed": Annotated[int, Ge(0)],
    "name": Annotated[str, MinLen(1)] | None,
    "output_dir": Annotated[str, MinLen(1)] | None,
    "dry_run": bool,
    "resume": Literal["auto"] | None,
    "checkpoint_every": Annotated[int, Ge(1)],
    "threads": Annotated[int, Ge(1)] | None,
    "extensions": list[str],
}
TAGGED = ("<think>", "<answer>")


class UserErrors(UserError):
    """Several errors at once, printed below each other."""

    def __init__(self, errors: list[UserError]) -> None:
        self.errors = errors
        super().__init__(errors[0].what, code=errors[0].code)

    def __str__(self) -> str:
        shown = [str(error) for error in self.errors[:6]]
        rest = len(self.errors) - len(shown)
        return "\n\n".join(shown + ([f"and {rest} more"] if rest else []))


def check_schema(cfg: Config, overrides: Iterable[str] = ()) -> None:
    """Compare every key and value with the signatures of the code that reads it.

    Raises:
        UserErrors: all that is wrong, each with its key, the value, what is allowed and the nearest name.
    """
    found = _plain_problems(cfg)
    extensions = cfg.get("extensions") or []
    if not found:
        for group in GROUPS:
            found += _node_problems(cfg[group], group, extensions)
        found += _reward_problems(cfg["reward"], extensions)
    if not found:
        found += _unused(cfg, overrides)
    if found:
        raise UserErrors(found)


def _plain_problems(cfg: Config) -> list[UserError]:
    known = [*PLAIN, *GROUPS, "reward"]
    found = [
        UserError(
            f"unknown key `{key}`: nothing reads it", where=key, given=cfg[key], allowed=known, do=nearest(key, known)
        )
        for key in cfg
        if key not in known
    ]
    found += [UserError("a key is missing", where=key) for key in known if key not in cfg]
    for key in PLAIN.keys() & cfg.keys():
        found += check_value(cfg[key], PLAIN[key], key)
    return found


def _node_problems(node: Any, where: str, extensions: list[str]) -> list[UserError]:
    if not isinstance(node, dict) or "_target_" not in node:
        return [
            UserError(f"`{where}` is a config group, not a value", where=where, given=node, do=f"choose an option: {where}=NAME")
        ]
    return problems(node, where, extensions)


def _reward_problems(reward: Any, extensions: list[str]) -> list[UserError]:
    terms = reward.get("terms") if isinstance(reward, dict) else None
    if not isinstance(terms, dict) or not terms:
        return [UserError("there is no reward term", where="reward.terms", given=terms, do="reward=math, for example")]
    found = [
        UserError(f"unknown key `reward.{key}`: nothing reads it", where=f"reward.{key}", do=nearest(key, ["terms"]))
        for key in reward
        if key != "terms"
    ]
    for name, node in terms.items():
        where = f"reward.terms.{name}"
        if not isinstance(node, dict) or "_target_" not in node:
            known = [n for n, t in terms.items() if isinstance(t, dict) and "_target_" in t]
            found.append(
                UserError(f"`{where}` is no reward term", where=where, given=node, allowed=known, do=nearest(name, known))
            )
            continue
        found += problems(node, where, extensions, extra={"weight": float | None})
        if node.get("weight") == 0:
            found.append(
                UserError(
                    "a reward term with weight 0 is paid for and never learned from",
                    where=f"{where}.weight",
                    given=0,
                    do=f"weight=null to log it only, or leave it out with ~{where}",
                )
            )
    if not found and all(node["weight"] is None for node in terms.values()):
        found.append(UserError("no reward term has a weight, so there is nothing to learn from", where="reward.terms"))
    return found


def _unused(cfg: Config, overrides: Iterable[str]) -> list[UserError]:
    """Overrides of a group that the chosen stage does not read."""
    from r1.build import used_parts

    if "teacher" in used_parts(cfg):
        return []
    stage = cfg["stage"]["_target_"].split(".")[-2]
    typed = [o for o in overrides if o.lstrip("+~").startswith(("teacher=", "teacher."))]
    return [
        UserError(f"stage={stage} has no teacher, so this changes nothing", where="teacher", given=o, do="stage=distill")
        for o in typed
    ]


def check_parts(cfg: Config, experiment: Experiment) -> None:
    """Compare the built parts with each other; reads the tokenizer and the data, loads no weights.

    Raises:
        UserError: the first thing that does not fit.
    """
    from r1.trainer import check_devices

    check_devices(cfg["trainer"]["accelerator"], cfg["trainer"]["devices"])
    _check_validation(cfg, experiment)
    _check_group(cfg)
    _check_examples(cfg, experiment)
    _check_columns(cfg, experiment)
    _check_prefill(experiment)
    _check_lengths(cfg, experiment)


def _check_validation(cfg: Config, experiment: Experiment) -> None:
    val = experiment.validation
    for k in val.ks:
        if not 1 <= k <= val.num_samples:
            raise UserError(
                f"pass@{k} needs at least {k} samples per prompt",
                where="val.ks",
                given=val.ks,
                allowed=f"1 to val.num_samples={val.num_samples}",
            )
    if cfg["rollout"]["temperature"] == 0 and experiment.stage.trains and experiment.stage.group_size > 1:
        raise UserError(
            "greedy rollouts are all alike, so no group has anything to learn from",
            where="rollout.temperature",
            given=0,
            allowed="number > 0",
        )


def _check_group(cfg: Config) -> None:
    advantage = cfg["stage"].get("advantage")
    if advantage is None:
        return
    function = resolve(advantage["_target_"], "stage.advantage", cfg["extensions"])
    least = getattr(function, "min_group_size", 1)
    if cfg["stage"]["group_size"] < least:
        name = function.__name__
        raise UserError(
            f"stage/advantage={name} compares the completions of a group with each other",
            where="stage.group_size",
            given=cfg["stage"]["group_size"],
            allowed=f"whole number >= {least}",
        )


def _check_examples(cfg: Config, experiment: Experiment) -> None:
    stage, num_rows = experiment.stage, len(experiment.data.train)
    if stage.trains and stage.plan.examples_per_step > num_rows:
        raise UserError(
            f"one optimizer step needs more examples than the {num_rows} of the training split",
            where="stage.examples_per_step",
            given=stage.plan.examples_per_step,
            allowed=f"at most {num_rows}",
        )
    if experiment.validation.num_prompts > len(experiment.data.val):
        raise UserError(
            f"the held-out split has {len(experiment.data.val)} rows",
            where="val.num_prompts",
            given=experiment.validation.num_prompts,
            allowed=f"at most {len(experiment.data.val)}",
        )


def _check_columns(cfg: Config, experiment: Experiment) -> None:
    from r1.reward.base import required_columns

    train, val = experiment.data.train, experiment.data.val
    columns = set(val[0]) & set(train[0]) if train else set(val[0])
    for name, node in cfg["reward"]["terms"].items():
        function = resolve(node["_target_"], f"reward.terms.{name}", cfg["extensions"])
        for column in sorted(required_columns(function, node.keys()) - columns):
            raise UserError(
                f"reward term `{name}` needs the dataset column `{column}`",
                where=f"reward.terms.{name}",
                allowed=f"columns of this dataset: {', '.join(sorted(columns))}",
                do=nearest(column, columns),
                code=REWARD,
            )
    needs = getattr(experiment.stage, "needs_columns", ())
    for column in needs:
        if any(not row.get(column) for row in train):
            raise UserError(
                f"this stage learns the column `{column}`, which some training rows lack",
                where="data",
                allowed=f"columns of this dataset: {', '.join(sorted(columns))}",
                do="map a column to it, e.g. data.completion_column=..., or use stage=distill",
                code=DATA,
            )


def _check_prefill(experiment: Experiment) -> None:
    """A tag that the template itself opens never shows up in a completion: rewards must be told to count it."""
    from r1.data.template.base import template_prefill

    stage, template = experiment.stage, experiment.data.template
    rendered = template.render(stage.tokenizer, experiment.data.val[0]["prompt"])
    opened = template_prefill(rendered)
    if opened and opened.strip() not in template.prefill:
        raise UserError(
            f"the chat template ends its prompt with {opened!r}, so no completion can contain it and a format reward "
            "would stay at 0",
            where="data.template.prefill",
            given=template.prefill,
            allowed=repr(opened),
            do=f"data.template.prefill='{opened.strip()}' makes it count as part of each completion",
            code=CONFIG,
        )


def _check_lengths(cfg: Config, experiment: Experiment) -> None:
    config = experiment.model.load_config()
    context = getattr(config, "max_position_embeddings", None)
    rows = [*experiment.data.train[:256], *experiment.data.val[: experiment.validation.num_prompts]]
    longest = max(len(experiment.data.prompt_ids(experiment.stage.tokenizer, row)) for row in rows)
    limit = experiment.engine.max_completion_length
    if context and longest + limit > context:
        raise UserError(
            f"the longest prompt ({longest} tokens) and a completion do not fit into the model's context of {context}",
            where="rollout.max_completion_length",
            given=limit,
            allowed=f"at most {context - longest}" if longest < context else "nothing: the prompt alone is too long",
            do="lower it, shorten the prompts, or take a model with a longer context",
        )


def check_extras(cfg: Config) -> None:
    """Fail on a missing optional package before anything is loaded."""
    from importlib.util import find_spec

    wanted = {"peft": cfg["model"].get("lora") is not None}
    for package, needed in wanted.items():
        if needed and find_spec(package) is None:
            raise UserError(f"this config needs the extra `{package}`", where="model.lora", do=f"pip install 'r1[{package}]'")


def existing(path: str, where: str) -> Path:
    """The path, or a UserError saying where it was looked for."""
    found = Path(path)
    if not found.exists():
        raise UserError("no such file or folder", where=where, given=path, do=f"looked in {found.absolute()}", code=DATA)
    return found
