"""The reward-model stage: the loss by hand, what must not change it, and what it leaves behind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from r1.config.build import build
from r1.config.check.components import check_parts
from r1.config.check.config import check_config
from r1.core.errors import UserError
from r1.core.jsonl import read_rows
from r1.reward.terms.preference import Preference
from r1.run import execute
from r1.stage.reward_model import pair_accuracy

KNOBS = ["stage=reward_model", "data=tiny_open"]
Config = dict[str, Any]


def gradient(made: Any, batches: list[Any]) -> Tensor:
    made.policy.zero_grad()
    for i, batch in enumerate(batches):
        (made.training_step(batch, i) / len(batches)).backward()
    return torch.cat([p.grad.flatten() for p in made.policy.parameters() if p.grad is not None])


def score(made: Any, prompt: str, text: str) -> Tensor:
    ids = made.tokenizer(f"User: {prompt}\nAssistant:{text}<|eos|>\n", add_special_tokens=False).input_ids
    return made.policy(input_ids=torch.tensor([ids])).logits[0, 0]  # type: ignore[no-any-return]


def test_reward_model_step_matches_loop_over_pairs(stage: Callable[..., Any]) -> None:
    made = stage(*KNOBS, "stage.micro_batch_size=2")
    found = gradient(made, made.micro_batches(0))
    rows = [made.data.train[i] for i in made.step_indices(0)]
    made.policy.zero_grad()
    gaps = [score(made, r["prompt"], r["chosen"]) - score(made, r["prompt"], r["rejected"]) for r in rows]
    loss = torch.stack([-torch.log(1 / (1 + torch.exp(-gap))) for gap in gaps]).mean()
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in made.policy.parameters() if p.grad is not None])
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert made.step_metrics["train/loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert made.step_metrics["train/pair_accuracy"] == sum(gap.item() > 0 for gap in gaps) / 4


def test_reward_model_gradient_does_not_depend_on_micro_batch_size(stage: Callable[..., Any]) -> None:
    found = []
    for size in (4, 2, 1):
        made = stage(*KNOBS, f"stage.micro_batch_size={size}")
        batches = made.micro_batches(0)
        assert [len(batch.input_ids) for batch in batches] == [2 * size] * (4 // size)
        found.append(gradient(made, batches))
    assert (found[0] - found[1]).abs().max() < 1e-6
    assert (found[0] - found[2]).abs().max() < 1e-6


def test_output_layer_depends_on_seed(stage: Callable[..., Any]) -> None:
    heads = [stage(*KNOBS, "model.path=r1:tiny", "~model.config", "+model.config=null", "model.tokenizer=null",
                   f"seed={seed}").policy.score.weight for seed in (0, 0, 1)]  # fmt: skip
    assert heads[0].equal(heads[1])
    assert not heads[0].equal(heads[2])


def test_pair_accuracy_of_equal_scores_is_half() -> None:
    assert pair_accuracy(torch.tensor([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]


def test_run_learns_pairs_and_exports_model_for_preference_term(
    small: Callable[..., Config], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    knobs = ["stage.lr=0.01", "trainer.max_steps=24", "val.every=24", "val.num_prompts=8", f"output_dir={folder}"]
    execute(small(*KNOBS, *knobs), [])
    said = capsys.readouterr().err
    assert "4 pairs per step = 1 micro-batch of 4 on 1 device" in said
    assert "validation: 8 pairs" in said
    final = json.loads((folder / "manifest.json").read_text())["metrics"]["final"]
    assert final.keys() == {"val/pair_accuracy", "val/loss", "val/margin"}
    steps = [row["train/loss"] for row in read_rows(folder / "metrics.jsonl") if "train/loss" in row]
    assert sum(steps[-6:]) < 0.8 * sum(steps[:6])
    last = [line for line in read_rows(folder / "samples.jsonl") if line["step"] == 24]
    assert final["val/margin"]["value"] == pytest.approx(sum(line["margin"] for line in last) / 8)
    assert final["val/loss"]["value"] == pytest.approx(sum(math.log1p(math.exp(-line["margin"])) for line in last) / 8)
    term = Preference(
        path=str(folder), dtype="float32", center=None, scale=1.0, thinking=True, max_length=99, batch_size=8
    )
    for line in last[:3]:
        chosen, rejected = term([line["prompt"]] * 2, [line["chosen"], line["rejected"]])
        assert (chosen or 0.0) - (rejected or 0.0) == pytest.approx(line["margin"], abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "what", "where"),
    [
        (["stage=reward_model"], "learns the column `chosen`, which 64 of 64 training rows lack", "data"),
        ([*KNOBS, "stage.packing=true"], "pairs are padded", "stage.packing"),
        ([*KNOBS, "+model/lora=default"], "trains all weights", "model.lora"),
    ],
)
def test_unsupported_reward_model_options_are_rejected(
    small: Callable[..., Config], overrides: list[str], what: str, where: str
) -> None:
    cfg = small(*overrides)
    check_config(cfg)
    with pytest.raises(UserError, match=what) as caught:
        check_parts(cfg, build(cfg))
    assert caught.value.key == where
