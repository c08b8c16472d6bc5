"""A run that is resumed with a larger budget: equal, bit for bit, to one that had it from the start, or refused."""

from __future__ import annotations

from r1.core import budget, provenance
from r1.core.errors import UserError
from r1.core.types import Config
from r1.stage.training.optimization import lr_factor

BUDGET_KEYS = ("trainer.max_steps", "trainer.max_epochs", "stage.total_tokens")


def is_extended(earlier: Config, config: Config) -> bool:
    """Whether a resumed run has another budget than before."""
    before, now = provenance.flatten(earlier), provenance.flatten(config)
    return any(before.get(key) != now.get(key) for key in BUDGET_KEYS)


def check_extension(earlier: Config, config: Config, num_examples: int, step: int) -> None:
    """Check that the steps so far would have been the same under the new budget.

    Args:
        earlier, config: the config of the run so far, and the new one, which differs in its budget.
        num_examples: training examples.
        step: of the newest checkpoint; 0 without one.

    Raises:
        UserError: the new budget is smaller, or the learning rates so far depended on the old one.
    """
    before, now = (budget.num_steps(cfg, num_examples) for cfg in (earlier, config))
    key = "trainer.max_steps" if config["trainer"]["max_epochs"] is None else "trainer.max_epochs"
    for name, old, new in (
        (key, before, now),
        ("stage.total_tokens", *(cfg["stage"].get("total_tokens") for cfg in (earlier, config))),
    ):
        if old is not None and new is not None and new < old:
            message = "a run can be extended, not shortened"
            raise UserError(message, key=name, value=f"{old} -> {new}", expected=f"at least {old}")
    stage = config["stage"]
    changed = [t for t in range(step) if lr_factor(stage, t, before) != lr_factor(stage, t, now)]
    if changed:
        where = "its decay has started" if stage["schedule"] == "wsd" else f"from step {changed[0]} on"
        raise UserError(
            f"the learning rates so far depend on the {before} steps of the run ({where}): with {now} they were others",
            key=key,
            value=f"{before} -> {now}",
            expected=f"{before}; with stage.schedule=constant any larger number",
            hint=f"a new run of all {now} steps, or one with resume_from=FOLDER, whose schedule is its own",
        )
