"""The reward group: its options compose, fit the code, and are the sums that they say they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from r1.config.build import rewards
from r1.config.check.models import NodeType, check_node
from r1.core.paths import CONF
from r1.data.base import Row, as_verifier
from r1.reward.base import RewardFunction, Rewards

TERMS = sorted(path.stem for path in (CONF / "reward" / "terms").glob("*.yaml"))


def composed(folder: Path, *overrides: str) -> dict[str, Any]:
    primary = f"hydra:\n  searchpath: ['file://{CONF}']\ndefaults:\n  - reward: math\n  - _self_\n"
    (folder / "config.yaml").write_text(primary)
    with initialize_config_dir(str(folder), version_base="1.3"):
        node = OmegaConf.to_container(compose("config", list(overrides)).reward, resolve=True)
    assert isinstance(node, dict)
    assert list(node) == ["terms"]
    return dict(node["terms"])


def built(terms: dict[str, Any]) -> Rewards:
    return rewards({"reward": {"terms": terms}, "extensions": []})


@as_verifier
def equal(answer: str, row: Row) -> bool:
    return bool(answer == row["answer"])


@pytest.mark.parametrize(
    ("option", "weights"),
    [
        ("math", {"accuracy": 1.0, "format": 0.2}),
        ("r1_zero", {"accuracy": 1.0, "format": 1.0}),
        ("r1", {"accuracy": 1.0, "format": 1.0, "language": 1.0}),
    ],
)
def test_reward_option_has_its_terms_and_weights(tmp_path: Path, option: str, weights: dict[str, float]) -> None:
    terms = composed(tmp_path, f"reward={option}")
    assert {name: term.weight for name, term in built(terms).terms.items()} == weights
    assert terms["format"]["graded"] is False


def test_reward_weights_and_terms_are_set_by_overrides(tmp_path: Path) -> None:
    added = composed(tmp_path, "reward.terms.format.weight=0.7", "+reward/terms@reward.terms.length=length")
    assert added["format"]["weight"] == 0.7
    assert list(added) == ["accuracy", "format", "length"]
    assert added["length"]["_target_"] == "r1.reward.terms.length.length"
    assert list(composed(tmp_path, "~reward.terms.format")) == ["accuracy"]


@pytest.mark.parametrize("name", TERMS)
def test_every_term_config_matches_its_function(tmp_path: Path, name: str) -> None:
    path = ["reward.terms.it.path=x"] if name == "preference" else []
    node = composed(tmp_path, f"+reward/terms@reward.terms.it={name}", *path)["it"]
    module, _, target = node["_target_"].rpartition(".")
    assert module == f"r1.reward.terms.{name}"
    assert node["_partial_"] is (target == name), "a function waits for its batch, an object is made"
    term = NodeType(RewardFunction, extra={"weight": float | None})
    assert check_node(node, "reward.terms.it", kind=term) == []
    for bad in ({"weigth": 1.0}, {"weight": "x"}, {"_partial_": not node["_partial_"]}):
        assert len(check_node(node | bad, "reward.terms.it", kind=term)) == 1


def test_the_r1_reward_of_a_good_a_mixed_and_a_wrong_completion(tmp_path: Path) -> None:
    reward = built(composed(tmp_path, "reward=r1"))
    texts = [
        "<think>3 plus 5 is 8.</think>\n<answer>8</answer>",
        "<think>3 plus 5 得 8.</think>\n<answer>8</answer>",
        "<think>3 plus 5 is 7.</think><answer>7</answer> bye",
    ]
    rows: list[Row] = [{"answer": "8"}] * 3
    scores = reward.score(["3+5=?"] * 3, texts, rows, equal, [[0]] * 3, 10)
    assert scores.terms == {"accuracy": [1, 1, 0], "format": [1, 1, 0], "language": [1, 0.5, 1]}
    assert scores.total == [3.0, 2.5, 1.0]
