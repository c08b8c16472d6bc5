"""SFT through a real model against a loop over single tokens; and the optimizer that all stages share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from slow import Ranks
from torch import Tensor
from transformers import PreTrainedModel

from r1.model.forward import Forward
from r1.rollout.base import Rollout
from r1.run import execute
from r1.stage.sft import Sft, SftBatch
from r1.stage.training.loader import StepLoader

Stages = Callable[..., Sft]
Config = dict[str, Any]
EIGHT = ["stage=sft", "stage.examples_per_step=8"]


def collected(model: PreTrainedModel) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def gradient(stage: Sft, batches: Sequence[SftBatch]) -> Tensor:
    """The gradient of one optimizer step, accumulated and divided as Lightning does."""
    stage.policy.zero_grad()
    for i, batch in enumerate(batches):
        (stage.training_step(batch, i) / len(batches)).backward()
    return collected(stage.policy)


def texts(stage: Sft, step: int = 0) -> list[tuple[str, str]]:
    """(prompt, completion) of a step's examples, closing token included, in the tiny world's chat format."""
    rows = [stage.data.train[i] for i in stage.step_indices(step)]
    return [(f"User: {row['prompt']}\nAssistant:", row["completion"] + "<|eos|>") for row in rows]


# ---- the loss ----


def reference(stage: Sft, loss_on_prompt: bool) -> Tensor:
    """Mean negative log-likelihood over the target tokens of the step, one forward pass per token."""
    costs = []
    for prompt, completion in texts(stage):
        context, target = (stage.tokenizer(text).input_ids for text in (prompt, completion))
        ids = context + target
        for t in range(1 if loss_on_prompt else len(context), len(ids)):
            logits = stage.policy(input_ids=torch.tensor([ids[:t]])).logits[0, -1]
            costs.append(-logits.log_softmax(-1)[ids[t]])
    return torch.stack(costs).mean()


@pytest.mark.parametrize("loss_on_prompt", [False, True])
def test_sft_step_matches_loop_over_tokens(stage: Stages, loss_on_prompt: bool) -> None:
    made = stage("stage=sft", f"stage.loss_on_prompt={loss_on_prompt}", "stage.micro_batch_size=2")
    found = gradient(made, made.micro_batches(0))
    made.policy.zero_grad()
    expected = reference(made, loss_on_prompt)
    expected.backward()
    torch.testing.assert_close(found, collected(made.policy), rtol=1e-4, atol=1e-6)
    assert made.step_metrics["train/loss"] == pytest.approx(expected.item(), abs=1e-5)


# ---- what must not change the gradient ----


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 1e-3
    assert (found - expected).abs().max() < 1e-6


@pytest.fixture
def fixed(stage: Stages) -> tuple[Sft, Tensor]:
    made = stage(*EIGHT)
    made.plan = replace(made.plan, micro_batch_size=8)
    return made, gradient(made, made.micro_batches(0))


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_sft_gradient_does_not_depend_on_micro_batch_size(fixed: tuple[Sft, Tensor], micro_batch_size: int) -> None:
    made, expected = fixed
    made.plan = replace(made.plan, micro_batch_size=micro_batch_size)
    batches = made.micro_batches(0)
    assert len(batches) == 8 // micro_batch_size
    assert_same(gradient(made, batches), expected)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("filler", [0, 1, 77])  # the padding token, the closing token, any token
def test_sft_gradient_does_not_depend_on_order_or_padding(
    fixed: tuple[Sft, Tensor], filler: int, packing: bool
) -> None:
    made, expected = fixed
    made.forward_pass = Forward(packing, share_prompts=False)
    (batch,) = made.micro_batches(0)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(8)).tolist()
    shuffled = SftBatch(**batch.rows(order), step_tokens=batch.step_tokens)
    wider = {
        name: torch.nn.functional.pad(getattr(shuffled, name), (0, 5), value=filler)
        for name in ("prompt_ids", "completion_ids")
    } | {"is_learned": torch.nn.functional.pad(shuffled.is_learned, (0, 5))}
    assert shuffled.lengths != batch.lengths
    assert_same(gradient(made, [replace(shuffled, **wider)]), expected)


@pytest.mark.parametrize("loss_on_prompt", [False, True])
def test_sft_gradient_does_not_depend_on_packing(stage: Stages, loss_on_prompt: bool) -> None:
    made, padded = (
        stage("stage=sft", f"stage.loss_on_prompt={loss_on_prompt}", f"stage.packing={packing}")
        for packing in (True, False)
    )
    assert_same(gradient(made, made.micro_batches(0)), gradient(padded, padded.micro_batches(0)))


def test_sft_gradient_does_not_depend_on_number_of_devices(stage: Stages, fixed: tuple[Sft, Tensor]) -> None:
    """Two devices with half of the examples each; their gradients are averaged, as DDP does."""
    alone, expected = fixed
    knobs = [*EIGHT, "trainer.devices=2", "stage.micro_batch_size=2"]
    made = [stage(*knobs, world_size=2, global_rank=rank) for rank in (0, 1)]
    batches = Ranks(made).do(lambda one: one.micro_batches(0))
    assert [len(own) for own in batches] == [2, 2]
    assert {batch.step_tokens for own in batches for batch in own} == {alone.micro_batches(0)[0].step_tokens}
    assert_same(sum(map(gradient, made, batches)) / 2, expected)


# ---- what is learned ----


def learned(stage: Sft) -> list[str]:
    """The targets that have weight, as text."""
    found = [
        stage.tokenizer.decode(ids[mask])
        for batch in stage.micro_batches(0)
        for ids, mask in zip(batch.completion_ids, batch.mask, strict=True)
    ]
    assert len(found) == stage.plan.examples_per_step
    return sorted(found)


def test_targets_are_completion_and_end_token(stage: Stages) -> None:
    made = stage("stage=sft")
    assert learned(made) == sorted(completion for _, completion in texts(made))


def test_loss_on_prompt_adds_prompt_targets(stage: Stages) -> None:
    made = stage("stage=sft", "stage.loss_on_prompt=true")
    first = made.tokenizer("User").input_ids[:1]  # nothing predicts the very first token
    skipped = len(made.tokenizer.decode(first))
    assert learned(made) == sorted((prompt + completion)[skipped:] for prompt, completion in texts(made))


@pytest.mark.parametrize("loss_on_prompt", [False, True])
def test_end_token_is_a_target_if_it_is_also_padding(stage: Stages, loss_on_prompt: bool) -> None:
    made = stage("stage=sft", f"stage.loss_on_prompt={loss_on_prompt}")
    expected = gradient(made, made.micro_batches(0))
    made.tokenizer.pad_token = made.tokenizer.eos_token
    assert made.tokenizer.pad_token_id == made.tokenizer.eos_token_id
    assert all(text.endswith("<|eos|>") and text.count("<|eos|>") == 1 for text in learned(made))
    assert_same(gradient(made, made.micro_batches(0)), expected)


@pytest.mark.parametrize("loss_on_prompt", [False, True])
def test_micro_batches_carry_step_tokens(stage: Stages, loss_on_prompt: bool) -> None:
    made = stage("stage=sft", f"stage.loss_on_prompt={loss_on_prompt}", "stage.micro_batch_size=1")
    batches = made.micro_batches(0)
    assert {batch.step_tokens for batch in batches} == {sum(batch.num_tokens for batch in batches)}


def test_epoch_has_every_example_once(stage: Stages) -> None:
    made = stage("stage=sft", "stage.examples_per_step=16", "stage.micro_batch_size=16")
    seen = [i for step in range(4) for i in made.step_indices(step)]
    assert sorted(seen) == list(range(64))


def test_loader_yields_steps_in_order_and_restores(stage: Stages) -> None:
    made = stage("stage=sft", "stage.micro_batch_size=2")
    expected = [batch.completion_ids.tolist() for step in range(3) for batch in made.micro_batches(step)]
    loader = StepLoader(made, num_steps=3)
    found = [batch.completion_ids.tolist() for batch in islice(loader, 9)]
    assert len(loader) == len(found) == 6
    assert found == expected
    assert len({str(ids) for ids in found}) == 6
    again = StepLoader(made, num_steps=3)
    running = iter(again)
    seen = [next(running).completion_ids.tolist() for _ in range(2)]  # one whole step
    other = StepLoader(made, num_steps=3)
    other.load_state_dict(again.state_dict())
    assert seen + [batch.completion_ids.tolist() for batch in islice(other, 9)] == expected


# ---- how a completion ends, and what is shown of it ----


@pytest.mark.parametrize(("held", "expected"), [(1, {1}), ([1, 7], {1, 7}), (None, {1})])
def test_stop_ids_are_those_of_template_and_model(stage: Stages, held: Any, expected: set[int]) -> None:
    made = stage("stage=sft")
    made.policy.generation_config.eos_token_id = held
    assert made.sampler.stop_ids == expected


def test_sampler_text_has_prefill_without_end_token(stage: Stages) -> None:
    made = stage("stage=sft", "data.template.prefill='<think>'")
    ids = made.tokenizer(" 3 plus 5</think>").input_ids
    for closing in (1, 300):  # a special token and, as some templates have it, an ordinary one
        closed = Rollout([2], [*ids, closing], [], truncated=False)
        assert made.sampler.text(closed, {}) == "<think> 3 plus 5</think>"
    assert made.sampler.text(Rollout([2], ids, [], truncated=True), {}) == "<think> 3 plus 5</think>"


# ---- the optimizer ----


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2]),
        ("cosine stage.min_lr=0.1", [1 / 3, 2 / 3, 1, 0.55 + 0.9 * math.sqrt(0.5) / 2, 0.55, 0.55 - 0.9 * 0.5**1.5]),
        ("linear stage.min_lr=0.2", [1 / 3, 2 / 3, 1, 0.8, 0.6, 0.4]),
        ("wsd stage.decay_steps=2 stage.min_lr=0.2", [1 / 3, 2 / 3, 1, 1, 1, 0.6]),
        ("wsd stage.decay_steps=5", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),  # the warm-up comes first
    ],
)
def test_lr_factor_matches_hand_computation(stage: Stages, schedule: str, expected: list[float]) -> None:
    """Six steps, two of them warm-up."""
    made = stage("stage=sft", "stage.warmup_steps=2", *f"stage.schedule={schedule}".split(), "stage.lr=0.01")
    assert [made.lr_factor(step) for step in range(6)] == pytest.approx(expected)
    setup = made.configure_optimizers()
    optimizer, scheduler = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(6):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rates == [[pytest.approx(0.01 * factor)] * 2 for factor in expected]


def test_lr_factor_without_warmup_starts_at_peak_and_ends_at_zero(stage: Stages) -> None:
    made = stage("stage=sft", "stage.warmup_steps=0", "stage.schedule=linear")
    assert made.lr_factor(0) == 1.0
    assert made.lr_factor(6) == 0.0
    assert made.lr_factor(7) == 0.0


def test_adamw_decays_only_matrices(stage: Stages, make_model: Callable[..., PreTrainedModel]) -> None:
    made = stage("stage=sft", "stage.optimizer.weight_decay=0.5", "stage.lr=0.1", "stage.warmup_steps=0")
    made.policy = make_model("qwen2", vocab_size=610)  # has biases besides its norms
    before = {name: p.detach().clone() for name, p in made.policy.named_parameters()}
    optimizer = made.configure_optimizers()["optimizer"]
    for p in made.policy.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert any("bias" in name for name in before)
    assert any("norm" in name for name in before)
    for name, p in made.policy.named_parameters():
        decays = "bias" not in name and "norm" not in name
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.1 * 0.5) if decays else before[name])


def test_adamw_has_every_trained_parameter_once(stage: Stages) -> None:
    made = stage("stage=sft", "stage.optimizer.beta1=0.8", "stage.optimizer.beta2=0.9")
    next(made.policy.parameters()).requires_grad_(False)
    optimizer = made.configure_optimizers()["optimizer"]
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in made.policy.parameters() if p.requires_grad)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}


@pytest.mark.parametrize(("limit", "expected"), [("0.01", 0.01), ("1e6", None), ("null", None)])
def test_gradient_is_clipped_to_max_norm(stage: Stages, limit: str, expected: float | None) -> None:
    made = stage("stage=sft", f"stage.max_grad_norm={limit}")
    before = gradient(made, made.micro_batches(0))
    optimizer = made.configure_optimizers()["optimizer"]
    made.configure_gradient_clipping(optimizer)
    after = collected(made.policy)
    assert made.step_metrics["train/grad_norm"] == pytest.approx(before.norm().item(), rel=1e-5)
    assert made.step_metrics["train/lr"] == optimizer.param_groups[0]["lr"]
    torch.testing.assert_close(after, before if expected is None else before * expected / before.norm())


# ---- whole runs ----


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_sft_run_lowers_loss_and_reports_every_step_once(small: Callable[..., Config], folder: Path) -> None:
    execute(small("stage=sft", "trainer.max_steps=30", "val.every=10", f"output_dir={folder}"), [])
    steps = [row for row in rows(folder) if "train/loss" in row]
    losses = [row["train/loss"] for row in steps]
    assert [row["step"] for row in steps] == list(range(1, 31))
    assert fmean(losses[-3:]) < 0.8 * fmean(losses[:3])
    assert [row["step"] for row in rows(folder) if "val/pass@1" in row] == [0, 10, 20, 30]
    warm_up = [1e-3 * (step + 1) / 11 for step in range(10)]  # conf/stage/sft.yaml: ten steps
    assert [row["train/lr"] for row in steps[:10]] == pytest.approx(warm_up)
    assert steps[20]["train/lr"] == pytest.approx(1e-3 * 0.5)  # halfway down the cosine


def test_sft_metrics_do_not_depend_on_micro_batch_size(small: Callable[..., Config], tmp_path: Path) -> None:
    found = []
    for size in (1, 4, 3):
        knobs = [f"stage.micro_batch_size={size}", "trainer.max_steps=1", f"output_dir={tmp_path / str(size)}"]
        execute(small("stage=sft", *knobs), [])
        found.append(next(row for row in rows(tmp_path / str(size)) if "train/loss" in row))
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)
    assert found[0]["train/grad_norm"] > 0.1
