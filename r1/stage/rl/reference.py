"""The frozen copy of the policy that a KL is measured against, and how it follows the policy if it does."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reference:
    """pi_ref: the start of the run, moved every ``sync_every`` optimizer steps by ``mix`` towards the policy.

    ``mix`` 1 copies the policy; a small mix at every step is a moving average (TR-DPO, Gorbatovski et al. 2024).
    """

    def __init__(self, sync_every: int | None, mix: float) -> None:
        self.sync_every, self.mix = sync_every, mix
        self.model: PreTrainedModel | None = None
        self.synced_at = 0
        self._saved: dict[str, Any] | None = None

    def start_from(self, policy: PreTrainedModel) -> None:
        """Take the copy; a second call changes nothing: Lightning configures the model for each of validate and fit."""
        if self.model is None:
            self.model = copy.deepcopy(policy).eval().requires_grad_(False)
            if self._saved is not None:
                self.model.load_state_dict(self._saved)

    @torch.no_grad()
    def sync(self, policy: PreTrainedModel, step: int) -> None:
        """Called before optimizer step ``step``; again if the run was stopped before the step was made."""
        if self.sync_every is None or step == self.synced_at or step % self.sync_every:
            return
        assert self.model is not None
        for mine, theirs in zip(self.model.parameters(), policy.parameters(), strict=True):
            mine.lerp_(theirs.to(mine), self.mix)
        self.synced_at = step

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint must hold: nothing where the reference never moves."""
        if self.sync_every is None or self.model is None:
            return None
        weights = {name: value.cpu() for name, value in self.model.state_dict().items()}
        return {"weights": weights, "synced_at": self.synced_at}

    def load_state(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        self._saved, self.synced_at = state["weights"], state["synced_at"]
        if self.model is not None:
            self.model.load_state_dict(state["weights"])
