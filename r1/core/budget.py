"""Equal compute: what stays the same when ``stage.group_size`` changes, and the totals of one run.

=============  ==============================================  ==============================================
``budget``     stays the same                                  follows from ``stage.group_size``
=============  ==============================================  ==============================================
``sequences``  completions per step and in total               prompts per step, P = B / G
``tokens``     completion tokens in total, completions a step  prompts per step, and how many steps it takes
``prompts``    prompts per step and in total                   completions, B = P x G
``steps``      optimizer steps, and nothing else               completions, B = P x G
=============  ==============================================  ==============================================

P and B = P x G are redundant: ``stage.examples_per_step`` or ``stage.sequences_per_step`` is set, the other follows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import OmegaConf

from r1.core.errors import UserError, as_yaml_null
from r1.core.types import Config

Budget = Literal["sequences", "tokens", "prompts", "steps"]


@dataclass(frozen=True)
class ComputeBudget:
    """The compute of a run that samples groups of completions, apart from how long its completions are.

    Attributes:
        budget: the quantity that stays the same when the group size changes.
        prompts_per_step: P.
        group_size: G.
        sequences_per_step: B = P x G, completions per optimizer step.
        steps: optimizer steps, at most; None: they follow from ``trainer.max_epochs`` once the data is read.
        prompts, sequences: prompts used and completions sampled over the whole run, at most; None as ``steps``.
        tokens: completion tokens after which the run ends; None: it ends after its steps.
    """

    budget: Budget
    prompts_per_step: int
    group_size: int
    sequences_per_step: int
    steps: int | None
    prompts: int | None
    sequences: int | None
    tokens: int | None

    @property
    def constant_per_step(self) -> int | None:
        """The size per step that compared runs must share; None with ``budget=steps``, which needs no such size."""
        by_budget = {"prompts": self.prompts_per_step, "steps": None}
        return by_budget.get(self.budget, self.sequences_per_step)

    def __str__(self) -> str:
        per_step = f"{self.prompts_per_step} prompts x {self.group_size} = {self.sequences_per_step:,} completions"
        total = f"{self.prompts:,} prompts and {self.sequences:,} completions in {self.steps:,} steps"
        if self.tokens is not None:
            total = f"{self.tokens:,} completion tokens, reached in at most {self.steps:,} steps"
        return f"budget={self.budget}: {per_step} per step, in total {total}"


def num_steps(cfg: Config, num_examples: int) -> int:
    """Optimizer steps of a run: ``trainer.max_steps``, or ``trainer.max_epochs`` passes over ``num_examples``."""
    steps, epochs = cfg["trainer"]["max_steps"], cfg["trainer"]["max_epochs"]
    return int(steps) if epochs is None else max(1, math.ceil(epochs * _steps_per_epoch(cfg, num_examples)))


def num_epochs(cfg: Config, num_examples: int) -> float:
    """Passes over the training examples in ``num_steps``."""
    return num_steps(cfg, num_examples) / _steps_per_epoch(cfg, num_examples)


def _steps_per_epoch(cfg: Config, num_examples: int) -> float:
    stage = cfg["stage"]
    return float(num_examples / stage["examples_per_step"] * stage.get("num_iterations", 1))


def compute_budget(cfg: Config, num_examples: int | None = None) -> ComputeBudget | None:
    """The compute of a resolved config; None: its stage samples no groups.

    Args:
        num_examples: training examples; None: not known yet, and with ``trainer.max_epochs`` neither are the totals.
    """
    stage, steps = cfg["stage"], cfg["trainer"]["max_steps"]
    if "sequences_per_step" not in stage:
        return None
    if num_examples is not None:
        steps = num_steps(cfg, num_examples)
    prompts, group_size, sequences = (stage[name] for name in ("examples_per_step", "group_size", "sequences_per_step"))
    per_rollout = stage.get("steps_per_rollout", 1)
    sizes = cfg["budget"], prompts, group_size, sequences
    if steps is None:
        return ComputeBudget(*sizes, None, None, None, stage.get("total_tokens"))
    minibatches = per_rollout * -(-steps // (per_rollout * stage["num_iterations"]))
    return ComputeBudget(*sizes, steps, prompts * minibatches, sequences * minibatches, stage.get("total_tokens"))


def check_budget(cfg: Config) -> None:
    """A rule of ``r1.config.check.rules``: P x G = B, and the budget is one that the stage can keep.

    Raises:
        UserError: the sizes do not multiply, or the budget does not apply.
    """
    stage, budget = cfg["stage"], cfg["budget"]
    compute = compute_budget(cfg)
    if compute is None:
        if budget != "sequences":
            message = "this stage has no groups of completions, so a budget has no effect"
            raise UserError(message, key="budget", value=budget, hint="leave it out, or stage=grpo")
        return
    _check_product(compute)
    _check_tokens(compute, "total_tokens" in stage, cfg["rollout"].get("max_completion_length", 0))


def _check_product(compute: ComputeBudget) -> None:
    prompts, group_size, sequences = compute.prompts_per_step, compute.group_size, compute.sequences_per_step
    if prompts * group_size == sequences:
        return
    if prompts == max(1, sequences // group_size):  # P was derived from B: it is the group size that does not fit
        raise UserError(
            f"{sequences} completions per step do not divide into such groups",
            key="stage.group_size",
            value=group_size,
            expected=", ".join(str(size) for size in range(1, sequences + 1) if not sequences % size),
            hint="set stage.examples_per_step (prompts) or stage.sequences_per_step (completions), or budget=prompts",
        )
    raise UserError(
        f"{prompts} prompts x {group_size} are not {sequences} completions",
        key="stage.sequences_per_step",
        value=sequences,
        hint="set stage.examples_per_step or stage.sequences_per_step; the other follows",
    )


def _check_tokens(compute: ComputeBudget, stage_counts_tokens: bool, max_completion_length: int) -> None:
    if compute.budget == "tokens" and not stage_counts_tokens:
        message, hint = "this stage does not count its tokens", "leave it out, or stage=grpo"
        expected = "sequences, prompts, steps"
        raise UserError(message, key="budget", value=compute.budget, expected=expected, hint=hint)
    if (compute.budget == "tokens") != (compute.tokens is not None):
        message = "a number of completion tokens ends a run with budget=tokens, and only with it"
        hint = "set both or neither"
        raise UserError(message, key="stage.total_tokens", value=as_yaml_null(compute.tokens), hint=hint)
    if compute.sequences is None:
        return
    max_tokens = compute.sequences * max_completion_length
    if compute.tokens is not None and max_tokens < compute.tokens:
        message = f"the run ends before: its {compute.steps} steps sample {max_tokens:,} completion tokens at most"
        hint = "raise trainer.max_steps, or lower stage.total_tokens"
        raise UserError(message, key="stage.total_tokens", value=compute.tokens, hint=hint)


def check_equal_compute(configs: Sequence[Config]) -> None:
    """Compared runs that differ in their group size must share the size per step that their budget keeps constant.

    Raises:
        UserError: they do not have equal compute.
    """
    comparable = defaultdict[Any, list[ComputeBudget]](list)
    for cfg in configs:
        if (compute := compute_budget(cfg)) is not None:
            comparable[compute.budget, compute.steps, cfg["stage"]["num_iterations"]].append(compute)
    for (budget, _, _), computes in comparable.items():
        group_sizes = sorted({compute.group_size for compute in computes})
        constants = sorted({compute.constant_per_step or 0 for compute in computes})
        if len(group_sizes) > 1 and len(constants) > 1:
            unit = "prompts" if budget == "prompts" else "completions"
            raise UserError(
                f"these runs do not have equal compute: {unit} per step are {', '.join(map(str, constants))}",
                key="stage.group_size",
                value=", ".join(map(str, group_sizes)),
                expected=f"the same {unit} per step in all of them (budget={budget})",
                hint="leave out stage.examples_per_step, then derived; or set budget=prompts or budget=steps",
            )


def _resolve_prompts(default: int, *, _parent_: Any, _root_: Any) -> int:
    """P where it is not set: B / G, or ``default`` under a budget that keeps the prompts constant.

    A key that is an interpolation is itself derived, by one of these resolvers: resolving both would be a circle.
    """
    budget, group_size = _root_.get("budget"), _parent_.get("group_size")
    if budget in ("prompts", "steps") and OmegaConf.is_interpolation(_parent_, "sequences_per_step"):
        return default
    return max(1, int(_parent_.sequences_per_step) // group_size) if _is_positive_int(group_size) else default


def _resolve_sequences(default: int, *, _parent_: Any, _root_: Any) -> int:
    """B where it is not set: P x G where the prompts are set, else ``default``."""
    prompts, group_size = None, _parent_.get("group_size")
    if not OmegaConf.is_interpolation(_parent_, "examples_per_step") or _root_.get("budget") in ("prompts", "steps"):
        prompts = _parent_.examples_per_step
    return prompts * group_size if _is_positive_int(prompts) and _is_positive_int(group_size) else default


def _resolve_steps(default: int, *, _parent_: Any) -> int | None:
    """The optimizer steps of a run that sets neither ``max_steps`` nor ``max_epochs``."""
    return default if _parent_.get("max_epochs") is None else None


def _resolve_tokens(default: int, *, _root_: Any) -> int | None:
    """The tokens after which a run with ``budget=tokens`` ends."""
    return default if _root_.get("budget") == "tokens" else None


def _resolve_val_prompts(default: int, max_tokens: int, *, _parent_: Any, _root_: Any) -> int:
    """The prompts of a validation: ``default``, or as many as ``max_tokens`` allow if all completions are maximal."""
    num_samples, length = _parent_.get("num_samples"), (_root_.get("rollout") or {}).get("max_completion_length")
    if not (_is_positive_int(num_samples) and _is_positive_int(length)):
        return default
    return min(default, max(1, max_tokens // int(num_samples * length)))


def _is_positive_int(value: Any) -> bool:
    """Resolvers run before the schema's check, which reports any other value."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


RESOLVERS: dict[str, Callable[..., Any]] = {  # name -> function of ``${name:...}``
    "prompts": _resolve_prompts,
    "sequences": _resolve_sequences,
    "tokens": _resolve_tokens,
    "steps": _resolve_steps,
    "val_prompts": _resolve_val_prompts,
}
