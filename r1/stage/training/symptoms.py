"""Signs in a run's metrics that training goes wrong, each with the key to change; a warning is printed once per run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import mean, median, variance
from typing import Any

from r1.core.console import console, status_line

WINDOW = 5  # steps whose mean counts: one step is noise
MIN_BEFORE = 10  # steps before the last window
MAX_VALUES = 500  # values per metric: the first window, and the newest
Series = Sequence[float]


def entropy_collapse(entropy: Series) -> str:
    """The mean of the last window is below a tenth of the first one's."""
    start, now = mean(entropy[:WINDOW]), mean(entropy[-WINDOW:])
    if not now < 0.1 * start:
        return ""
    return f"the entropy fell from {start:.2g} to {now:.2g} nats per token: lower stage.lr, or raise stage.entropy_coef"


def lost_signal(frac_zero_std: Series) -> str:
    """In the last window more than 80 % of the groups have equal rewards."""
    now = mean(frac_zero_std[-WINDOW:])
    if not now > 0.8:
        return ""
    return f"{now:.0%} of the groups have equal rewards, and teach nothing: stage.zero_variance=resample, or other data"


def gradient_growth(grad_norm: Series) -> str:
    """The median of the last window is above ten times the median of all before; single peaks are clipped."""
    before, now = median(grad_norm[:-WINDOW]), median(grad_norm[-WINDOW:])
    if not now > 10 * before > 0:
        return ""
    return f"the gradient norm rose from {before:.2g} to {now:.2g}: lower stage.lr, or stage.max_grad_norm"


def reward_fall(reward: Series) -> str:
    """The last window's mean is below the best one's by more than half of it, and by four standard errors."""
    windows = [reward[start : start + WINDOW] for start in range(len(reward) - 2 * WINDOW + 1)]
    best, last = max(windows, key=mean), reward[-WINDOW:]
    fall, error = mean(best) - mean(last), math.sqrt((variance(best) + variance(last)) / WINDOW)
    if not fall > max(abs(mean(best)) / 2, 4 * error):
        return ""
    return f"the mean reward fell from {mean(best):.2g} to {mean(last):.2g}: lower stage.lr, or raise stage.kl_coef"


SYMPTOMS: dict[str, Callable[[Series], str]] = {
    "train/entropy": entropy_collapse,
    "train/frac_zero_std": lost_signal,
    "train/grad_norm": gradient_growth,
    "train/reward": reward_fall,
}


class Symptoms:
    """Follows the metrics of the steps; its state belongs into a checkpoint."""

    def __init__(self) -> None:
        self.series: dict[str, list[float]] = {name: [] for name in SYMPTOMS}
        self.reported: list[str] = []

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Add the metrics of a step, and print what is new."""
        for name in SYMPTOMS.keys() & metrics.keys():
            series = self.series[name]
            series.append(metrics[name])
            if len(series) > MAX_VALUES:
                del series[WINDOW]
            enough = name not in self.reported and len(series) >= MIN_BEFORE + WINDOW
            if enough and (message := SYMPTOMS[name](series)):
                self.reported.append(name)
                warn(f"at step {step} {message}")

    def state(self) -> dict[str, Any]:
        return {"series": self.series, "reported": self.reported}

    def load_state(self, state: dict[str, Any]) -> None:
        self.series, self.reported = state["series"], state["reported"]


def first_validation(frac_truncated: float, rewards: Sequence[Series] | None, max_length: int) -> list[str]:
    """What the validation before the first step says about the rollouts to come.

    Args:
        rewards: of the completions of each prompt, where a stage learns from their differences.
        max_length: tokens of a completion.
    """
    messages = []
    if frac_truncated > 0.5:
        limit = f"rollout.max_completion_length={max_length}"
        messages.append(f"{frac_truncated:.0%} of the completions were cut off at {limit}: raise it")
    if rewards and len(rewards[0]) > 1 and all(len(set(group)) == 1 for group in rewards):
        cause = "the model gets all of a prompt's answers wrong, or all right"
        messages.append(
            f"no prompt had completions of different reward ({cause}): take other data, reward or model.path"
        )
    return messages


def warn(message: str) -> None:
    console.print(status_line(f"warning: {message}"))
