"""The optimizers against hand-computed updates and PyTorch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from r1.stage.optimizer.muon import JointOptimizer
from r1.stage.optimizer.sgd import sgd
from r1.stage.sft import Sft

Stages = Callable[..., Sft]
MUON = ["stage=sft", "stage/optimizer=muon", "stage.optimizer.matrix_lr=0.02", "stage.lr=0.01", "stage.warmup_steps=0"]


def step(made: Sft, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in made.policy.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()


def test_sgd_update_matches_hand_computation() -> None:
    """Two steps with gradient 1: momentum 0.5 makes the second update 1.5; only the matrix decays."""
    policy = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(policy.weight, 1.0)
    torch.nn.init.constant_(policy.bias, 1.0)
    optimizer = sgd(policy, 0.1, weight_decay=0.0, momentum=0.5, nesterov=False)
    for _ in range(2):
        for p in policy.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert policy.weight.item() == pytest.approx(1 - 0.1 - 0.15)
    decaying = sgd(policy, 0.1, weight_decay=0.5, momentum=0.0, nesterov=False)
    assert [group["weight_decay"] for group in decaying.param_groups] == [0.5, 0.0]


def test_muon_updates_inner_matrices_and_adamw_the_rest(stage: Stages) -> None:
    made = stage(*MUON)
    optimizer = made.configure_optimizers()["optimizer"]
    expected = copy.deepcopy(made.policy)
    names = [name for name, p in expected.named_parameters() if p.ndim == 2 and "proj" in name]
    assert len(names) > 6
    parameters = dict(expected.named_parameters())
    inner = [parameters[name] for name in names]
    rest = [p for name, p in parameters.items() if name not in names]
    peers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(inner, lr=0.02, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for seed in range(2):
        step(made, optimizer, seed)
        for p, own in zip(expected.parameters(), made.policy.parameters(), strict=True):
            assert own.grad is not None
            p.grad = own.grad.clone()
        for peer in peers:
            peer.step()
    for name, p in made.policy.named_parameters():
        torch.testing.assert_close(p, parameters[name], rtol=1e-5, atol=1e-6)


def test_muon_state_restores_to_the_same_updates(stage: Stages) -> None:
    made, other = stage(*MUON), stage(*MUON)
    optimizer, restored = (one.configure_optimizers()["optimizer"] for one in (made, other))
    step(made, optimizer, 0)
    other.policy.load_state_dict(made.policy.state_dict())
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its in ((made, optimizer), (other, restored)):
        step(one, its, 1)
    assert collected_weights(made).equal(collected_weights(other))


def collected_weights(made: Sft) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in made.policy.parameters()])


def test_schedule_scales_both_rates_of_muon(stage: Stages) -> None:
    setup: Any = stage(*MUON, "stage.warmup_steps=1", "stage.schedule=constant").configure_optimizers()
    optimizer, schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    assert isinstance(optimizer, JointOptimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.005, 0.005]
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.01, 0.005, 0.005]
    optimizer.step()
    schedule.step()
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.02, 0.01, 0.01]
