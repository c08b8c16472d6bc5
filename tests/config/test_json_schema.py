"""JSON schemas: those of composed configs' models, and those of config files, which editors read."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import cache, reduce
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from test_check import CASES, VALID

from r1.config.check.config import config_model
from r1.config.compose import compose_points
from r1.config.hydra_adapter import parse_override
from r1.config.overrides import parse_command_line
from r1.config.reference.files import file_names, group_names, option_file
from r1.config.reference.json_schema import json_schema
from r1.core.errors import CONFIG
from r1.core.paths import CONF
from r1.core.provenance import flatten
from r1.core.yaml import ConfigLoader

OPTIONS = [path.relative_to(CONF).with_suffix("") for path in sorted(CONF.glob("*/**/*.yaml")) if path.stem[0] != "_"]
MOUNTED = {  # how an option of a group is chosen, where that is not GROUP=OPTION
    "reward/terms": "+reward/terms@reward.terms.it={}",
    "stage/filters": "stage=distill +stage/filters@stage.filters.it={}",
    "stage/divergence": "stage=distill_on_policy stage/divergence={}",
    "model/lora": "+model/lora={}",
}


def model_schema(command: str) -> dict[str, Any]:
    (point,) = compose_points(*parse_command_line(command.split()))
    return config_model(point.config)[1].model_json_schema()


def split(path: Path) -> tuple[str, str]:
    """(group, option); the folders of experiments sort them, those of other groups are groups."""
    group = path.parts[0] if path.parts[0] == "experiment" else path.parent.as_posix()
    return group, path.relative_to(group).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), [split(path) for path in OPTIONS])
def test_every_option_has_a_json_schema(group: str, option: str) -> None:
    schema = model_schema(MOUNTED.get(group, group + "={}").format(option))
    assert {"model", "data", "stage", "reward", "seed"} <= set(schema["required"])
    assert schema["additionalProperties"] is False


def test_json_schema_has_types_bounds_and_choices() -> None:
    schema = model_schema("stage=grpo")
    stage = schema["$defs"][schema["properties"]["stage"]["$ref"].rpartition("/")[2]]["properties"]
    assert (stage["group_size"]["type"], stage["group_size"]["minimum"]) == ("integer", 1)
    assert (stage["lr"]["type"], stage["lr"]["exclusiveMinimum"]) == ("number", 0)
    assert stage["schedule"]["enum"] == ["constant", "linear", "cosine", "wsd"]
    assert "$ref" in stage["loss"]


# ---- schemas of files ----

UNKNOWN_TO_A_FILE = {  # mistakes that no schema of one file shows, by what they need
    "+reward.terms.fromat.weight=1": "names of terms are free",
    "reward.terms.language.weight=1": "a term may be added by another file",
    "+data@extra=countdown": "packages are free",
    "experiment=tiny_base stage=grpo": "two files",
    "data.template.text=x": "the template may be chosen by another file",
    "data.path=rows.jsonl": "the dataset may be chosen by another file",
    "stage.lr=nan": "JSON has no such number",
    "stage.lr=inf": "JSON has no such number",
    "stage.kl_coef=nan": "JSON has no such number",
    "reward.terms.format.weight=nan": "JSON has no such number",
    "stage.group_size=8.0": "to JSON 8.0 is the integer 8",
    "stage.group_size=1": "a rule between keys",
    "stage.group_size=1 stage/advantage=center": "a rule between keys",
    "stage.clip_dual=1.2": "a rule between keys",
    "stage.clip_dual=1.25 stage.clip_high=0.28": "a rule between keys",
    "rollout.temperature=0": "a rule between keys",
    "+stage/filters@stage.filters.x=length": "the stage may be chosen by another file",
    "stage=distill stage.filters.verifer.min=1": "names of filters are free",
    "stage=distill +stage.filters.verifer.min=1": "names of filters are free",
    "model.config.model_type=lama": "the keys of transformers' configs",
    "+model.config.hidden_siz=5": "the keys of transformers' configs",
    "model.config.num_hidden_layers=-1": "the keys of transformers' configs",
}
KINDS = ("unknown key", "no option", "wrong value", "did you mean", "number", "one of: ", "true or false", "or null")
NOT_OF_A_FILE = ("~", "-", "hydra", "'", "extensions", "lr=1", "output_dir", "budget")
SCHEMA_MISTAKES = [
    command
    for command, words in CASES[CONFIG]
    if any(kind in word for word in words for kind in KINDS)
    and not command.startswith(NOT_OF_A_FILE)
    and command not in UNKNOWN_TO_A_FILE
]


def as_file(command: str) -> dict[str, Any]:
    """A command line as an experiment's YAML file has it."""
    defaults: list[Any] = []
    content: dict[str, Any] = {}
    for text in shlex.split(command):
        override = parse_override(text)
        group, value = override.key_or_group, override.value()
        if group in group_names() or ("/" in group and "." not in group):
            name = f"{'' if override.is_add() else 'override '}/{group}"
            defaults.append({name + (f"@{override.package}" if override.package else ""): value})
            continue
        *parents, last = group.split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return content | ({"defaults": defaults} if defaults else {})


@cache
def validator(group: str = "experiment") -> Draft202012Validator:
    schema = json_schema(group)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def load(file: Path) -> Any:
    return yaml.load(file.read_text(), Loader=ConfigLoader)


@pytest.mark.parametrize("group", group_names())
def test_schema_of_a_group_accepts_its_shipped_files(group: str) -> None:
    files = {name: option_file(group, name) for name in file_names(group)}
    assert {name for name, file in files.items() if file and not validator(group).is_valid(load(file))} == set()


def test_schema_accepts_the_config_file_and_composed_configs(config: Callable[..., Any]) -> None:
    assert validator().is_valid(load(CONF / "config.yaml"))
    for overrides in (["stage=sft"], ["reward=r1", "+model/lora=default"], ["stage=distill", "logger=wandb"]):
        assert list(validator().iter_errors(config(*overrides))) == []


@pytest.mark.parametrize("command", [command for command in VALID if not command.startswith("-")])
def test_schema_accepts_valid_commands(command: str) -> None:
    assert list(validator().iter_errors(as_file(command))) == []


def test_schema_refuses_mistakes() -> None:
    assert len(SCHEMA_MISTAKES) > 60
    assert [command for command in SCHEMA_MISTAKES if validator().is_valid(as_file(command))] == []


def test_schema_and_check_agree_on_values_of_composed_keys(config: Callable[..., Any]) -> None:
    """pydantic's check of a composed config is the reference; a JSON integer may be written 8.0."""
    values = [None, True, 3, -1, 0.5, "x", [1], ["x"], {"a": 1}]
    random = Random(0)
    disagreements = []
    for _ in range(25):
        cfg = config("reward=r1")
        keys = (key for key in flatten(cfg) if not key.endswith(("_target_", "_partial_")) and key != "extensions")
        key = random.choice(sorted(keys))
        *parents, last = key.split(".")
        node = reduce(lambda node, name: node[name], parents, cfg)
        node[last] = value = random.choice(values)
        models, model = config_model(cfg)
        is_wrong = any(f"{key}.".startswith(f"{error.key}.") for error in models.validate(model, cfg))
        if is_wrong == validator().is_valid(cfg):
            disagreements.append((key, value))
    assert disagreements == []


def test_schema_lets_any_value_be_an_interpolation_and_describes_keys() -> None:
    assert validator().is_valid({"stage": {"group_size": "${stage.lr}"}, "val": {"ks": [1, "${val.num_samples}"]}})
    stage = json_schema("stage")["$defs"]["stage=grpo"]
    assert stage["properties"]["group_size"]["description"] == "G, completions per prompt (R1: 16)"
    assert stage["description"].startswith("Group-relative policy optimization")


def test_schema_of_the_chosen_option_refuses_keys_of_others() -> None:
    chosen = {"defaults": [{"override /stage": "sft"}]}
    assert validator().is_valid(chosen | {"stage": {"mask_history": True}})
    assert not validator().is_valid(chosen | {"stage": {"group_size": 4}})
