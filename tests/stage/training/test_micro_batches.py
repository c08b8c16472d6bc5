"""Micro-batches by tokens: first fit by hand, its bounds, and a result that does not depend on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from r1.config.build import build
from r1.config.check.components import check_parts
from r1.config.check.config import check_schema
from r1.core.batch import BatchPlan
from r1.core.errors import UserError, UserErrors
from r1.core.types import Config
from r1.run import execute
from r1.stage.training.base import TrainingStage
from r1.stage.training.micro_batches import rows_by_tokens, split_to


@pytest.mark.parametrize(
    ("is_packed", "expected"),
    [
        (True, [[0, 2], [1, 3], [4]]),  # 5 + 3, 4 + 3, 2
        (False, [[0], [1, 2], [3, 4]]),  # 5; 2 x 4; 2 x 3
    ],
)
def test_rows_go_in_falling_length_into_the_first_micro_batch_with_room(
    is_packed: bool, expected: list[list[int]]
) -> None:
    assert rows_by_tokens([5, 4, 3, 3, 2], 8, is_packed) == expected


def test_shared_prompt_counts_once_in_a_micro_batch() -> None:
    """Two completions each of prompts 0 and 1, 4 tokens long: 4 + 3 + 2 = 9 of 10, and 4 + 2 + 2."""
    prompts = [(0, 4), (0, 4), (1, 4), (1, 4)]
    assert rows_by_tokens([7, 6, 6, 6], 10, True, prompts) == [[0, 1], [2, 3]]
    assert rows_by_tokens([7, 6, 6, 6], 10, True) == [[0], [1], [2], [3]]
    assert rows_by_tokens([7, 6, 6, 6], 10, False, prompts) == [[0], [1], [2], [3]]


def test_row_longer_than_the_bound_is_alone() -> None:
    assert rows_by_tokens([3, 20, 3], 8, True) == [[1], [0, 2]]


@given(st.lists(st.integers(1, 40), max_size=40), st.integers(1, 60), st.booleans())
def test_micro_batches_hold_each_row_once_within_the_bound(lengths: list[int], bound: int, is_packed: bool) -> None:
    parts = rows_by_tokens(lengths, bound, is_packed)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    costs = [
        sum(lengths[row] for row in part) if is_packed else len(part) * max(lengths[row] for row in part)
        for part in parts
    ]
    assert all(cost <= bound or len(part) == 1 for cost, part in zip(costs, parts, strict=True))
    if is_packed:  # else the later one's first row would have gone into the earlier one
        assert all(a + b > bound for i, a in enumerate(costs) for b in costs[i + 1 :])


@given(st.lists(st.lists(st.integers(), max_size=5), max_size=5), st.integers(0, 12))
def test_split_to_reaches_the_count_and_loses_no_row(parts: list[list[int]], count: int) -> None:
    result = split_to(count, parts)
    assert len(result) == max(count, len(parts))
    assert sorted(row for part in result for row in part) == sorted(row for part in parts for row in part)
    assert parts == [list(part) for part in parts]


def test_plan_prints_the_bound_in_tokens() -> None:
    plan = BatchPlan(16, 8, None, 1, micro_batch_tokens=16384)
    sizes = "16 prompts x 8 completions = 128 sequences per step"
    assert str(plan) == f"{sizes} = micro-batches of at most 16,384 tokens on 1 device"
    assert plan.num_micro_batches == 128


# ---- the result ----

PAIRS = ["stage=reward_model", "data=tiny_open"]
TEACHER = ["teacher=transformers", "teacher.path=r1:tiny_xs", "teacher.dtype=float32"]
STAGES: dict[str, tuple[list[str], int]] = {  # knobs, tokens
    "sft": (["stage=sft"], 120),
    "sft, padded": (["stage=sft", "stage.packing=false"], 120),
    "sft, on prompts": (["stage=sft", "stage.loss_on_prompt=true"], 120),
    "grpo": (["stage=grpo", "stage.num_iterations=2", "stage.kl_coef=0.1"], 60),
    "grpo, padded": (["stage=grpo", "stage.packing=false"], 60),
    "grpo, minibatches": (["stage=grpo", "stage.steps_per_rollout=2", "stage/loss=grpo"], 40),
    "grpo, few left": (["stage=grpo", "stage.group_size=2", "stage.zero_variance=drop"], 40),
    "distill_logits": (["stage=distill_logits", *TEACHER], 120),
    "distill_on_policy": (["stage=distill_on_policy", "stage.group_size=2", *TEACHER], 60),
    "distill": (["stage=distill", "stage.num_questions=8"], 120),
    "reward_model": (PAIRS, 400),
}


@pytest.mark.parametrize("name", STAGES)
def test_result_does_not_depend_on_micro_batch_tokens(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Two steps of plain gradient descent: equal weights are equal gradients. Metrics are those of each full step."""
    knobs, tokens = STAGES[name]
    knobs = [*knobs, "stage/optimizer=sgd", "stage.lr=0.05", "trainer.max_steps=2", "threads=1", "keep_best=false"]
    counts: list[int] = []
    original = TrainingStage.on_train_batch_start

    def counting(self: TrainingStage, batch: object, batch_idx: int) -> None:
        counts.append(self.trainer.global_step)
        original(self, batch, batch_idx)

    for bound in ("size=64", f"tokens={tokens}"):
        if bound.startswith("tokens"):
            monkeypatch.setattr(TrainingStage, "on_train_batch_start", counting)
        unset = ["stage.micro_batch_size=null"] if bound.startswith("tokens") else []
        execute(small(*knobs, f"stage.micro_batch_{bound}", *unset, f"output_dir={tmp_path / bound[:4]}"), [])
    assert max(counts.count(step) for step in (0, 1)) > 1, "several micro-batches"
    weights = [load_file(tmp_path / part / "model" / "model.safetensors") for part in ("size", "toke")]
    assert max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0]) < 1e-6
    rows = [
        [json.loads(line) for line in (tmp_path / part / "metrics.jsonl").read_text().splitlines()]
        for part in ("size", "toke")
    ]
    assert len(rows[0]) == len(rows[1])
    for a, b in zip(*rows, strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-4)


# ---- config ----


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (["stage.micro_batch_tokens=99", "stage.micro_batch_size=8"], "by 8 sequences and by 99 tokens"),
        (["stage.micro_batch_size=null"], "no default for a model"),
    ],
)
def test_micro_batches_need_one_bound(config: Callable[..., Config], knobs: list[str], message: str) -> None:
    with pytest.raises(UserErrors, match=message) as caught:
        check_schema(config("stage=sft", *knobs))
    assert caught.value.errors[0].key == "stage.micro_batch_size"


@pytest.mark.parametrize("stage", ["grpo", "sft", "distill_on_policy", "reward_model"])
def test_tokens_replace_the_recipe_s_number_of_sequences(config: Callable[..., Config], stage: str) -> None:
    cfg = config(f"stage={stage}", "stage.micro_batch_tokens=4096")
    assert (cfg["stage"]["micro_batch_size"], cfg["stage"]["micro_batch_tokens"]) == (None, 4096)


@pytest.mark.parametrize(
    ("knobs", "needed"),
    [
        (["stage=grpo", "rollout.max_completion_length=64"], 64),
        (["stage=sft"], 0),
        (PAIRS, 0),
    ],
)
def test_longest_row_must_fit_into_a_micro_batch(config: Callable[..., Config], knobs: list[str], needed: int) -> None:
    def experiment(tokens: int) -> Config:
        small = ["model=tiny_xs", "data.num_train=16", "data.num_val=4", "stage.examples_per_step=8"]
        return config(*knobs, *small, f"stage.micro_batch_tokens={tokens}")

    cfg = experiment(max(1, needed))
    with pytest.raises(UserError, match="longest row does not fit") as caught:
        check_parts(cfg, build(cfg))
    assert caught.value.key == "stage.micro_batch_tokens"
    enough = int(caught.value.expected.removeprefix("at least "))
    assert enough > needed
    check_parts(experiment(enough), build(experiment(enough)))
    with pytest.raises(UserError, match="longest row does not fit"):
        check_parts(cfg, build(experiment(enough - 1)))
