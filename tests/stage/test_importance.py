"""Importance corrections by hand: three tokens, one beyond a bound, one masked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from options import build_option, option_names
from torch import Tensor

from r1.core.errors import UserErrors
from r1.core.renamed import suggest_renamed, upgrade_config, upgrade_override
from r1.core.types import Config
from r1.run import execute
from r1.stage.grpo import Grpo
from r1.stage.importance.base import ImportanceCorrection
from r1.stage.importance.masked import masked
from r1.stage.importance.sequence import sequence
from r1.stage.importance.token import token

RATIOS = torch.tensor([[1.5, 3.0, 1.0], [0.5, 0.1, 1.0]]).log()  # the third is masked


def rows(weights: Tensor) -> list[list[float]]:
    found: list[list[float]] = weights.expand(2, 3)[:, :2].tolist()
    return [pytest.approx(row) for row in found]  # type: ignore[misc]


def test_token_is_truncated_above() -> None:
    assert rows(token(RATIOS, cap=2.0)) == [[1.5, 2.0], [0.5, 0.1]]


def test_masked_is_zero_outside_its_bounds_and_the_ratio_inside() -> None:
    assert rows(masked(RATIOS, low=0.2, high=2.0)) == [[1.5, 0.0], [0.5, 0.0]]
    assert rows(masked(RATIOS, low=0.5 - 1e-6, high=3.0 + 1e-6)) == [[1.5, 3.0], [0.5, 0.0]]


@pytest.mark.parametrize(
    ("low", "high", "outside", "expected"),
    [
        (None, 3.0, "mask", [0.0, 0.05]),
        (0.1, 5.0, "mask", [4.5, 0.0]),
        (None, 3.0, "truncate", [3.0, 0.05]),
        (0.1, None, "truncate", [4.5, 0.1]),
        (0.01, 5.0, "truncate", [4.5, 0.05]),
    ],
)
def test_sequence_has_the_product_of_its_tokens(
    low: float | None, high: float | None, outside: str, expected: list[float]
) -> None:
    weights = sequence(RATIOS, low=low, high=high, outside=outside)  # type: ignore[arg-type]
    assert weights.squeeze(1).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("option", option_names("stage/importance"))
@given(gaps=st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6))
def test_weights_are_bounded_and_one_for_an_exact_engine(option: str, gaps: list[float]) -> None:
    correction: ImportanceCorrection = build_option("stage/importance", option)
    weights = correction(torch.tensor(gaps).view(2, 3)).expand(2, 3)
    assert ((weights >= 0) & (weights <= 5 + 1e-5)).all()
    assert correction(torch.zeros(2, 3)).eq(1).all()


# ---- the config ----


@pytest.mark.parametrize("option", [*option_names("stage/importance"), None])
def test_every_correction_is_built(stage: Callable[..., Grpo], option: str | None) -> None:
    made = stage("stage=grpo", "stage.importance=null" if option is None else f"stage/importance={option}")
    assert (made.objective.importance is None) == (option is None)


@pytest.mark.parametrize(
    ("knobs", "key"),
    [
        (["stage/importance=sequence", "stage.importance.high=null"], "stage.importance.high"),
        (["stage/importance=masked", "stage.importance.low=1.5"], "stage.importance.low"),
        (["stage/importance=masked", "stage.importance.high=0.9"], "stage.importance.high"),
        (["stage.kl_unbiased=true"], "stage.kl_unbiased"),
        (["stage.kl_unbiased=true", "stage.kl_coef=0.1", "stage.kl_in=reward"], "stage.kl_unbiased"),
    ],
)
def test_settings_without_effect_are_refused(
    small: Callable[..., Config], knobs: list[str], key: str, tmp_path: Path
) -> None:
    with pytest.raises(UserErrors) as caught:
        execute(small("stage=grpo", *knobs, "dry_run=true", f"output_dir={tmp_path / 'run'}"), [])
    assert [error.key for error in caught.value.errors] == [key]


@pytest.mark.parametrize("cap", [2.0, 5.0, None])
def test_importance_cap_of_an_older_record_is_the_token_correction(cap: float | None) -> None:
    (old,) = [{"stage": {"_target_": "r1.stage.grpo.Grpo", "importance_cap": cap}}]
    stage = upgrade_config(old)["stage"]
    assert "importance_cap" not in stage
    token = {"_target_": "r1.stage.importance.token.token", "_partial_": True, "cap": cap}
    assert stage["importance"] == (None if cap is None else token)


def test_importance_cap_of_an_older_command_line_is_understood() -> None:
    assert upgrade_override("stage.importance_cap=3") == "stage.importance.cap=3"
    assert upgrade_override("stage.importance_cap=null") == "stage.importance=null"
    assert suggest_renamed("stage.importance_cap") == "did you mean `stage.importance.cap`?"


@pytest.mark.parametrize(("loss", "noted"), [("sapo", True), ("kimi", True), ("cispo", False)])
def test_plan_notes_losses_without_a_clip(
    small: Callable[..., Config], capsys: pytest.CaptureFixture[str], loss: str, noted: bool
) -> None:
    execute(small("stage=grpo", f"stage/loss={loss}", "dry_run=true"), [])
    plan = " ".join(capsys.readouterr().err.split())
    assert ("clips nothing, so stage.clip_low and clip_high do nothing" in plan) == noted
