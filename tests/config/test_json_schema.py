"""The models of a config have a JSON schema, whatever options are chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from r1.config.check.config import config_model
from r1.config.compose import compose_points
from r1.config.overrides import parse_command_line
from r1.core.paths import CONF

pytestmark = pytest.mark.slow

OPTIONS = [path.relative_to(CONF).with_suffix("") for path in sorted(CONF.glob("*/**/*.yaml")) if path.stem[0] != "_"]
MOUNTED = {  # how an option of a group is chosen, where that is not GROUP=OPTION
    "reward/terms": "+reward/terms@reward.terms.it={}",
    "stage/filters": "stage=distill +stage/filters@stage.filters.it={}",
    "stage/divergence": "stage=distill_on_policy stage/divergence={}",
    "model/lora": "+model/lora={}",
}


def json_schema(command: str) -> dict[str, Any]:
    (point,) = compose_points(*parse_command_line(command.split()))
    return config_model(point.config)[1].model_json_schema()


def split(path: Path) -> tuple[str, str]:
    """(group, option); the folders of experiments sort them, those of other groups are groups."""
    group = path.parts[0] if path.parts[0] == "experiment" else path.parent.as_posix()
    return group, path.relative_to(group).as_posix()


@pytest.mark.parametrize(("group", "option"), [split(path) for path in OPTIONS])
def test_every_option_has_a_json_schema(group: str, option: str) -> None:
    schema = json_schema(MOUNTED.get(group, group + "={}").format(option))
    assert {"model", "data", "stage", "reward", "seed"} <= set(schema["required"])
    assert schema["additionalProperties"] is False


def test_json_schema_has_types_bounds_and_choices() -> None:
    schema = json_schema("stage=grpo")
    stage = schema["$defs"][schema["properties"]["stage"]["$ref"].rpartition("/")[2]]["properties"]
    assert (stage["group_size"]["type"], stage["group_size"]["minimum"]) == ("integer", 1)
    assert (stage["lr"]["type"], stage["lr"]["exclusiveMinimum"]) == ("number", 0)
    assert stage["schedule"]["enum"] == ["constant", "linear", "cosine", "wsd"]
    assert "$ref" in stage["loss"]
