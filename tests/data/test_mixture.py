"""Several datasets as one: order, shares, and that each row keeps its part's template, verifier and terms."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.config.build import Experiment, build, instantiate_node
from r1.config.check.components import check_parts
from r1.config.check.config import check_config
from r1.core.errors import UserError
from r1.core.jsonl import read_rows
from r1.data.base import Data
from r1.data.mixture import interleave, mixture, rows_per_part
from r1.data.template.r1_zero import R1Zero
from r1.data.verifier.countdown import countdown
from r1.data.verifier.exact import exact
from r1.run import execute

Config = dict[str, Any]
PARTS = ["data=mixture", "+data@data.parts.maths=arithmetic", "+data@data.parts.open=tiny_open"]
SIZES = [f"data.parts.{part}.{key}" for part in ("maths", "open") for key in ("num_train=32", "num_val=8")]


def part(name: str, size: int, **fields: Any) -> Data:
    rows = [{"prompt": f"{name}{i}", "answer": str(i)} for i in range(size)]
    template = R1Zero(text="{prompt}", prefill=fields.pop("prefill", ""))
    return Data(rows, [dict(row) for row in rows[:2]], template, fields.pop("verifier", exact), **fields)


# ---- the rows ----


def test_mixture_interleaves_rows_and_names_their_part() -> None:
    data = mixture(parts={"a": part("a", 4), "b": part("b", 2)})
    assert [row["prompt"] for row in data.train] == ["a0", "b0", "a1", "a2", "b1", "a3"]
    assert [row["part"] for row in data.train] == ["a", "b", "a", "a", "b", "a"]
    assert [row["prompt"] for row in data.val] == ["a0", "b0", "a1", "b1"]


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ({"a": None, "b": None}, {"a": 40, "b": 10}),
        ({"a": 1.0, "b": 1.0}, {"a": 10, "b": 10}),
        ({"a": 3.0, "b": 1.0}, {"a": 30, "b": 10}),
        ({"a": 9.0, "b": 1.0}, {"a": 40, "b": 4}),
        ({"a": 1000.0, "b": 1.0}, {"a": 40, "b": 1}),
    ],
)
def test_rows_per_part_follow_the_weights_without_repeats(weights: Any, counts: dict[str, int]) -> None:
    assert rows_per_part({"a": 40, "b": 10}, weights) == counts


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_interleave_is_even_at_every_prefix(sizes: list[int]) -> None:
    rows = interleave([[{"part": str(i), "at": j} for j in range(size)] for i, size in enumerate(sizes)])
    for i, size in enumerate(sizes):
        assert [row["at"] for row in rows if row["part"] == str(i)] == list(range(size))
    for end in range(len(rows)):
        counts = Counter(row["part"] for row in rows[:end])
        assert all(abs(counts[str(i)] - end * size / len(rows)) <= len(sizes) for i, size in enumerate(sizes))


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ({}, ".parts"),
        ({"a": part("a", 2, weight=1.0), "b": part("b", 2)}, ".parts.b.weight"),
        ({"a": mixture(parts={"b": part("b", 2)})}, ".parts.a"),
    ],
)
def test_mixture_rejects_invalid_parts(parts: dict[str, Data], where: str) -> None:
    with pytest.raises(UserError) as caught:
        mixture(parts=parts)
    assert caught.value.key == where


def test_mixture_rejects_a_part_whose_rows_have_a_column_part() -> None:
    own = part("a", 4)
    own.val[0]["part"] = "upper"
    with pytest.raises(UserError, match="reserved: `part`") as caught:
        mixture(parts={"b": part("b", 2), "a": own})
    assert caught.value.key == ".parts.a"


# ---- each row as its part says ----


def test_each_row_is_verified_by_its_parts_verifier() -> None:
    data = mixture(parts={"sums": part("a", 1), "game": part("b", 1, verifier=countdown)})
    game = {"part": "game", "answer": "2+3", "numbers": [2, 3], "target": 5}
    rows = [{"part": "sums", "answer": "5"}, game, {"part": "sums", "answer": "5"}, {"answer": "2+3"}]
    texts = [f"<answer>{answer}</answer>" for answer in ("5", "3+2", "3+2", "2+3")]
    assert data.all_correct(texts, rows) == [True, True, False, True]
    assert data.all_correct(texts[:1], [{"part": "sums"}]) == [None]
    assert data.pop_error_counts() == {}


def test_each_row_is_rendered_in_its_parts_template() -> None:
    data = mixture(parts={"a": part("a", 1, prefill="<think>"), "b": part("b", 1)})
    templates = [data.source_of(row)[1].template for row in (*data.train, {"prompt": "typed by hand"})]
    assert [template.prefill for template in templates] == ["<think>", "", "<think>"]


def test_terms_are_those_of_the_part_unless_the_row_names_its_own() -> None:
    own = part("a", 2)
    own.train[1]["terms"] = ["mine"]
    data = Data(own.train, own.val, own.template, own.verifier, terms=["x", "y"])
    assert [row["terms"] for row in data.train] == [["x", "y"], ["mine"]]
    assert "terms" not in part("a", 1).train[0]


# ---- as a user composes it ----


@pytest.fixture
def checked(small: Callable[..., Config]) -> Callable[..., Experiment]:
    def build_experiment(*overrides: str) -> Experiment:
        cfg = small("stage=grpo", *PARTS, *SIZES, *overrides)
        check_config(cfg)
        experiment = build(cfg)
        check_parts(cfg, experiment)
        return experiment

    return build_experiment


def test_a_part_has_a_template_of_its_own(checked: Callable[..., Experiment]) -> None:
    experiment = checked("data/template@data.parts.open.template=r1_zero")
    data, tokenizer = experiment.data, experiment.stage.tokenizer
    asked = {row["part"]: tokenizer.decode(data.prompt_ids(tokenizer, row)) for row in data.train}
    assert asked["maths"].startswith("User: ")
    assert asked["open"].startswith("A conversation between User and Assistant.")


@pytest.mark.parametrize(
    ("override", "what", "where"),
    [
        ("data.parts.open.terms=[low_idz]", "rewarded by `low_idz`", "data.parts.open.terms"),
        ("data.parts.open.terms=[]", "no reward term with a weight", "data"),
        ("data.parts.open.weight=2", "either every part has a weight or none", "data.parts.maths.weight"),
        ("data.parts.open.num_train=0", "wrong value", "data.parts.open.num_train"),
        ("+data.parts.open.numm=0", "unknown key", "data.parts.open.numm"),
        ("+data.parts.opne.weight=2", "`data.parts.opne` is", "data.parts.opne"),
    ],
)
def test_mixture_config_errors_name_their_key(
    checked: Callable[..., Experiment], override: str, what: str, where: str
) -> None:
    with pytest.raises(UserError, match=re.escape(what)) as caught:
        checked(override)
    assert caught.value.key == where


def test_weight_outside_a_mixture_is_rejected(small: Callable[..., Config]) -> None:
    with pytest.raises(UserError, match="no share in anything"):
        check_config(small("stage=grpo", "data.weight=2"))
    cfg = small("stage=grpo", "data.terms=[low_ids]")
    assert all(row["terms"] == ["low_ids"] for row in instantiate_node(cfg["data"], "data", cfg).train)


def test_a_run_reports_each_part(small: Callable[..., Config], folder: Path) -> None:
    knobs = ["data.parts.open.terms=[tiny_open,low_ids]", "+reward/terms@reward.terms.tiny_open=tiny_open"]
    execute(
        small("stage=grpo", *PARTS, *SIZES, *knobs, "val.num_prompts=4", "trainer.max_steps=2", f"output_dir={folder}"),
        [],
    )
    start, *_, end = read_rows(folder / "metrics.jsonl")
    assert start.keys() == end.keys()
    assert {"val/pass@1", "val/reward", "val/maths/pass@1", "val/open/reward", "val/reward/tiny_open"} <= end.keys()
    assert not {"val/open/pass@1", "val/maths/reward"} & end.keys()
    assert end["val/pass@1"] == end["val/maths/pass@1"]
    lines = [line for line in read_rows(folder / "samples.jsonl") if line["split"] == "val"]
    assert {(line["answer"] is None, line["correct"] is None) for line in lines} == {(True, True), (False, False)}
    assert {line["rewards"]["tiny_open"] is None for line in lines if line["answer"]} == {True}
    assert "NaN" not in (folder / "samples.jsonl").read_text() + (folder / "metrics.jsonl").read_text()
