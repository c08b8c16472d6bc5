"""The reference policy of the KL: a frozen copy of the initial policy, optionally synced with the policy."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from r1.model.trained import load_trained, trained_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reference:
    """pi_ref: the start of the run, moved every ``sync_every`` optimizer steps by ``mix`` towards the policy.

    ``mix`` 1 copies the policy; a small mix at every step is a moving average (TR-DPO, Gorbatovski et al. 2024). The
    weights that are frozen in the policy are shared with it: with adapters the reference is small.
    """

    def __init__(self, sync_every: int | None, mix: float) -> None:
        self.sync_every, self.mix = sync_every, mix
        self.model: PreTrainedModel | None = None
        self.synced_at = 0
        self._saved: dict[str, Any] | None = None
        self._trained: list[str] = []  # names of the weights that can move

    def start_from(self, policy: PreTrainedModel) -> None:
        """Copy the policy; a second call does nothing: Lightning configures the model for validate and for fit."""
        if self.model is None:
            shared: dict[int, Any] = {id(p): p for p in policy.parameters() if not p.requires_grad}
            self.model = copy.deepcopy(policy, shared).eval().requires_grad_(False)
            self._trained = list(trained_weights(policy))
            if self._saved is not None:
                load_trained(self.model, self._saved)

    @torch.no_grad()
    def sync(self, policy: PreTrainedModel, step: int) -> None:
        """Called before optimizer step ``step``; a second call, as after a resume, does not move it again."""
        if self.sync_every is None or step == self.synced_at or step % self.sync_every:
            return
        assert self.model is not None
        for ref, current in zip(self.model.parameters(), policy.parameters(), strict=True):
            ref.lerp_(current.to(ref), self.mix)
        self.synced_at = step

    def state(self) -> dict[str, Any] | None:
        """State for a checkpoint; None if the reference has not moved, so that it is the initial policy again."""
        if not self.synced_at or self.model is None:
            return None
        weights = self.model.state_dict()
        weights = {name: weights[name].cpu() for name in self._trained}
        return {"weights": weights, "synced_at": self.synced_at}

    def load_state(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        self._saved, self.synced_at = state["weights"], state["synced_at"]
        if self.model is not None:
            load_trained(self.model, state["weights"])
