"""The teacher group: every option matches its target's signature; wrong values are found without building."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from r1.config.check.models import check_node
from r1.core.paths import CONF

TEACHERS = CONF / "teacher"
OPTIONS = {"procedural": "Procedural", "transformers": "Transformers", "openai": "OpenAI"}


def node(option: str) -> dict[str, Any]:
    loaded = OmegaConf.to_container(OmegaConf.load(TEACHERS / f"{option}.yaml"))
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def test_every_yaml_file_is_a_known_option() -> None:
    assert {path.stem for path in TEACHERS.glob("*.yaml")} == set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_option_matches_the_signature_of_its_target(option: str) -> None:
    assert node(option)["_target_"] == f"r1.teacher.{option}.{OPTIONS[option]}"
    assert check_node(node(option), "teacher") == []


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("procedural", "error_rate", 1.5),
        ("procedural", "language", "fr"),
        ("transformers", "temperature", -1.0),
        ("transformers", "dtype", "int4"),
        ("transformers", "batch_size", 0),
        ("openai", "timeout_s", 0.0),
        ("openai", "max_retries", 1.5),
        ("openai", "max_failures", -1),
        ("openai", "requests_per_minute", 0),
        ("openai", "tokens_per_minute", 0.5),
        ("openai", "concurrency", "many"),
        ("openai", "api_key", "OPENAI_API_KEY"),
    ],
)
def test_wrong_value_is_reported_at_its_key(option: str, key: str, value: object) -> None:
    (problem,) = check_node(node(option) | {key: value}, "teacher")
    assert problem.key == f"teacher.{key}"
