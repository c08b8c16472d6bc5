"""Retired names: each leads to a name that is in use, and what is written under today's names stays as it is."""

from __future__ import annotations

import re
from copy import deepcopy

import pytest

from r1.config.check.schema import resolve
from r1.core.paths import CONF, EXAMPLE_CONFS
from r1.core.renamed import (
    KEYS,
    METRIC_GROUPS,
    NEW_KEYS,
    NEW_SAMPLING_KEYS,
    OPTIONS,
    TARGETS,
    suggest_renamed,
    upgrade_config,
    upgrade_manifest,
    upgrade_metrics,
    upgrade_override,
)

YAML = {path: path.read_text(encoding="utf-8") for folder in (CONF, *EXAMPLE_CONFS) for path in folder.rglob("*.yaml")}
TEXT = "\n".join(YAML.values())
OLD = {
    "rollout": {"_target_": "r1.rollout.vllm.VLLM", "context": 512, "sleep": False, "batch_size": 4},
    "val": {"_target_": "r1.evaluate.Validation", "ks": [1]},
    "trainer": {"_target_": "r1.trainer.trainer", "strategy": {"_target_": "r1.strategy.single.Single"}},
    "extensions": ["mine"],
}


@pytest.mark.parametrize("target", TARGETS.values())
def test_a_new_target_exists(target: str) -> None:
    assert callable(resolve(target, "x", ["examples"]))


@pytest.mark.parametrize("option", OPTIONS.items())
def test_an_option_is_under_its_new_name_only(option: tuple[str, str]) -> None:
    exists = [(CONF / f"{name.replace('=', '/')}.yaml").is_file() for name in option]
    assert exists == [False, True]


@pytest.mark.parametrize(("old", "new"), KEYS.items())
def test_a_key_is_under_its_new_name_only(old: str, new: str) -> None:
    found = []
    for name in (old, new):
        *_, group, key = name.split(".")
        text = "\n".join(text for path, text in YAML.items() if path.parent.name == group)
        found.append(bool(re.search(rf"^{key}:", text, re.M)))
    assert found == [False, True]


@pytest.mark.parametrize("target", TARGETS)
def test_no_option_names_a_retired_target(target: str) -> None:
    assert not re.search(rf"_target_: {re.escape(target)}\s", TEXT)


def test_upgrade_config_renames_targets_and_keys_in_place() -> None:
    config = deepcopy(OLD)
    upgraded = upgrade_config(config)
    assert config == OLD
    assert list(upgraded["rollout"].items()) == [
        ("_target_", "r1.rollout.vllm.VLLM"),
        ("max_model_len", 512),
        ("enable_sleep_mode", False),
        ("batch_size", 4),
        *NEW_SAMPLING_KEYS.items(),
    ]
    val = {"_target_": "r1.stage.validation.metrics.Validation", "ks": [1]}
    assert upgraded["val"] == val | NEW_KEYS["r1.stage.validation.metrics.Validation"]
    assert upgraded["trainer"]["_target_"] == "r1.train.trainer.trainer"
    assert upgraded["extensions"] == ["mine"]
    assert upgrade_config(upgraded) == upgraded


def test_upgrade_config_trusts_the_example_that_a_target_moved_to() -> None:
    upgraded = upgrade_config({"data": {"_target_": "r1.data.tiny_corpus.tiny_corpus"}, "extensions": []})
    assert upgraded["data"]["_target_"] == "examples.tiny_world.tiny_corpus.tiny_corpus"
    assert upgraded["extensions"] == ["examples.tiny_world"]
    assert upgrade_config(upgraded) == upgraded


def test_upgrade_metrics_renames_the_group_only() -> None:
    row = {"step": 1, "reject/kept": 2.0, "reject/rejected/format": 3.0, "train/reject": 4.0}
    assert upgrade_metrics(row) == {
        "step": 1,
        "rejection/selected": 2.0,
        "rejection/rejected/format": 3.0,
        "train/reject": 4.0,
    }
    assert set(METRIC_GROUPS) == {"reject"}


def test_upgrade_manifest_renames_metrics_and_overrides() -> None:
    manifest = {
        "status": "finished",
        "overrides": ["stage=reject", "seed=1", "rollout.sleep=true"],
        "metrics": {"start": {}, "final": {"reject/kept": {"value": 2.0}}},
    }
    assert upgrade_manifest(manifest) == {
        "status": "finished",
        "overrides": ["stage=rejection_sampling", "seed=1", "rollout.enable_sleep_mode=true"],
        "metrics": {"start": {}, "final": {"rejection/selected": {"value": 2.0}}},
    }


def test_upgrade_override_leaves_other_overrides_alone() -> None:
    for text in ("stage=grpo", "~stage.filters.x", "data.path=rollout.sleep", "+logger.x='a=b'"):
        assert upgrade_override(text) == text


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("stage", "reject", "did you mean `stage=rejection_sampling`?"),
        ("rollout.context", 5, "did you mean `rollout.max_model_len`?"),
        ("val._target_", "r1.evaluate.Validation", "did you mean `r1.stage.validation.metrics.Validation`?"),
        ("stage", "grpo", ""),
        ("rollout.batch_size", None, ""),
    ],
)
def test_suggest_renamed(key: str, value: object, hint: str) -> None:
    assert suggest_renamed(key, value) == hint


def test_a_verifier_without_todays_knobs_gets_them() -> None:
    old = {"verifier": {"_target_": "r1.data.verifier.math.math", "_partial_": True, "seconds": 2.0}}
    knobs = {"rel_tol": 1e-6, "units": "optional", "brackets": "optional", "seconds": 2.0}
    assert upgrade_config(old) == {"verifier": {"_target_": "r1.data.verifier.math.Math"} | knobs}
