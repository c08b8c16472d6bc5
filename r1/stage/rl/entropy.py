"""The weight of the entropy bonus: constant, or adapted so that the entropy stays above a target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EntropyBonus:
    """c_k, adapted after each optimizer step (Skywork-OR1, arXiv:2505.22312: adaptive entropy control; as in TRL).

    With a target, c grows by ``delta`` after a step whose entropy is at most the target, else it shrinks by it, within
    [``coef_min``, ``coef_max``]. It weighs the bonus only where the entropy of the step before is at most the target.

    Attributes:
        coef: c, constant where ``target`` is None.
        target: nats per token.
        entropy: mean token entropy of the newest step, over all ranks.
    """

    coef: float
    target: float | None
    delta: float
    coef_min: float
    coef_max: float
    entropy: float = float("inf")

    @property
    def weight(self) -> float:
        """Weight of the bonus in the current step."""
        return self.coef if self.target is None or self.entropy <= self.target else 0.0

    def update(self, entropy: float) -> None:
        """Called after each step that has trainable tokens, with the same value on every rank."""
        if self.target is None:
            return
        change = self.delta if entropy <= self.target else -self.delta
        self.coef, self.entropy = min(max(self.coef + change, self.coef_min), self.coef_max), entropy

    def state(self) -> dict[str, float]:
        return {"coef": self.coef, "entropy": self.entropy}

    def load_state(self, state: dict[str, float]) -> None:
        # an infinite entropy: it was never adapted, so that the config's start holds, perhaps another run's
        if self.target is not None and state["entropy"] != float("inf"):
            self.coef, self.entropy = state["coef"], state["entropy"]
