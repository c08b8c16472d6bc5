"""Checkpoints of one file per device are read without running anything that they hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from r1.core.errors import STORAGE, UserError
from r1.strategy import shards

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
FIRED: list[str] = []


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return fire, ()


def fire() -> None:
    FIRED.append("boom")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.nn.Module, dict[str, Any]]:
    """A model and its optimizer after one step, as FSDP2 saves them: by name."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25)
    model(torch.ones(3, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    state = shards.by_name(optimizer.state_dict(), ["weight", "bias"])
    dcp.save({"state_dict": model.state_dict(), "optimizer_0": state}, storage_writer=FileSystemWriter(tmp_path))
    torch.save({"global_step": 1}, tmp_path / "meta.pt")
    return tmp_path, model, optimizer.state_dict()


def test_consolidate_returns_the_saved_checkpoint(saved: tuple[Path, torch.nn.Module, dict[str, Any]]) -> None:
    folder, model, optimizer = saved
    checkpoint = shards.consolidate(folder)
    assert checkpoint["global_step"] == 1
    for name, weight in model.state_dict().items():
        assert torch.equal(checkpoint["state_dict"][name], weight)
    (state,) = checkpoint["optimizer_states"]
    assert state["param_groups"][0]["lr"] == 0.25
    assert torch.equal(state["state"][0]["exp_avg"], optimizer["state"][0]["exp_avg"])


@pytest.mark.parametrize("load", [shards.consolidate, lambda folder: shards.load({"state_dict": {}}, folder)])
def test_malicious_index_runs_no_code(saved: tuple[Path, torch.nn.Module, dict[str, Any]], load: Any) -> None:
    folder, _, _ = saved
    (folder / ".metadata").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"not part of a checkpoint") as error:
        load(folder)
    assert error.value.code == STORAGE
    assert FIRED == []


def test_malicious_value_runs_no_code(saved: tuple[Path, torch.nn.Module, dict[str, Any]]) -> None:
    folder, _, _ = saved
    folder = folder / "bomb"
    dcp.save({"state_dict": {"weight": Bomb()}}, storage_writer=FileSystemWriter(folder))
    torch.save({}, folder / "meta.pt")
    with pytest.raises(CheckpointException, match=r"Weights only load failed"):
        shards.consolidate(folder)
    with pytest.raises(CheckpointException, match=r"Weights only load failed"):
        shards.load({"state_dict": {"weight": 0}}, folder)
    assert FIRED == []
