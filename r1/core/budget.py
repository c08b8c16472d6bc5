"""Equal compute: what stays the same when ``stage.group_size`` changes, and what one run comes to.

=============  ==============================================  ==============================================
``budget``     stays the same                                  follows from ``stage.group_size``
=============  ==============================================  ==============================================
``sequences``  completions per step and in total               prompts per step, P = B / G
``tokens``     completion tokens in total, completions a step  prompts per step, and how many steps it takes
``prompts``    prompts per step and in total                   completions, B = P x G
``steps``      optimizer steps, and nothing else               completions, B = P x G
=============  ==============================================  ==============================================

P and B say one thing twice: ``stage.examples_per_step`` or ``stage.sequences_per_step`` may be set, the other follows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from omegaconf import OmegaConf

from r1.core.errors import UserError, as_yaml_null
from r1.core.types import Config

Budget = Literal["sequences", "tokens", "prompts", "steps"]


@dataclass(frozen=True)
class Compute:
    """What a run with groups of completions comes to, apart from how long its completions are.

    Attributes:
        budget: what a change of the group size leaves as it is.
        prompts_per_step: P.
        group_size: G.
        sequences_per_step: B = P x G, completions sampled for one rollout batch.
        steps: optimizer steps, at most.
        prompts, sequences: sampled for and sampled over the whole run, at most.
        tokens: completion tokens that end the run; None: its steps do.
    """

    budget: Budget
    prompts_per_step: int
    group_size: int
    sequences_per_step: int
    steps: int
    prompts: int
    sequences: int
    tokens: int | None

    @property
    def fixed(self) -> int | None:
        """What must be the same in all runs that are compared; ``steps`` asks for nothing else."""
        of_budget = {"prompts": self.prompts_per_step, "steps": None}
        return of_budget.get(self.budget, self.sequences_per_step)

    def __str__(self) -> str:
        per_step = f"{self.prompts_per_step} prompts x {self.group_size} = {self.sequences_per_step:,} completions"
        total = f"{self.prompts:,} prompts and {self.sequences:,} completions in {self.steps:,} steps"
        if self.tokens is not None:
            total = f"{self.tokens:,} completion tokens, reached in at most {self.steps:,} steps"
        return f"budget={self.budget}: {per_step} per step, in total {total}"


def compute(cfg: Config) -> Compute | None:
    """What a resolved config comes to; None: its stage samples no groups."""
    stage, steps = cfg["stage"], cfg["trainer"]["max_steps"]
    if "sequences_per_step" not in stage:
        return None
    prompts, group_size, sequences = (stage[name] for name in ("examples_per_step", "group_size", "sequences_per_step"))
    batches = -(-steps // stage["num_iterations"])
    totals = prompts * batches, sequences * batches, stage.get("total_tokens")
    return Compute(cfg["budget"], prompts, group_size, sequences, steps, *totals)


def plain(cfg: Config) -> Config | None:
    """``compute`` for a manifest."""
    found = compute(cfg)
    return asdict(found) if found else None


def check(cfg: Config) -> None:
    """A rule of ``r1.config.check.rules``: P x G = B, and a budget that the stage can keep.

    Raises:
        UserError: what does not come out, or is not read.
    """
    stage, budget = cfg["stage"], cfg["budget"]
    found = compute(cfg)
    if found is None:
        if budget != "sequences":
            message = "this stage has no groups of completions, so there is nothing that a budget could keep the same"
            raise UserError(message, key="budget", value=budget, hint="leave it out, or stage=grpo")
        return
    _check_product(found)
    _check_tokens(found, "total_tokens" in stage, cfg["rollout"].get("max_completion_length", 0))


def _check_product(found: Compute) -> None:
    if found.prompts_per_step * found.group_size == found.sequences_per_step:
        return
    if found.prompts_per_step == max(1, found.sequences_per_step // found.group_size):
        sizes = [size for size in range(1, found.sequences_per_step + 1) if not found.sequences_per_step % size]
        raise UserError(
            f"{found.sequences_per_step} completions per step do not divide into such groups",
            key="stage.group_size",
            value=found.group_size,
            expected=", ".join(map(str, sizes)),
            hint="set stage.examples_per_step (prompts) or stage.sequences_per_step (completions), or budget=prompts",
        )
    raise UserError(
        f"{found.prompts_per_step} prompts x {found.group_size} are not {found.sequences_per_step} completions",
        key="stage.sequences_per_step",
        value=found.sequences_per_step,
        hint="set stage.examples_per_step or stage.sequences_per_step; the other follows",
    )


def _check_tokens(found: Compute, counts: bool, max_completion_length: int) -> None:
    if found.budget == "tokens" and not counts:
        message, expected = "this stage does not count its tokens", "sequences, prompts, steps"
        raise UserError(
            message, key="budget", value=found.budget, expected=expected, hint="leave it out, or stage=grpo"
        )
    if (found.budget == "tokens") != (found.tokens is not None):
        message = "a number of completion tokens ends a run with budget=tokens, and only with it"
        hint = "set both or neither"
        raise UserError(message, key="stage.total_tokens", value=as_yaml_null(found.tokens), hint=hint)
    longest = found.sequences * max_completion_length
    if found.tokens is not None and longest < found.tokens:
        message = f"the {found.steps} steps of this run end it before: they make {longest:,} completion tokens at most"
        hint = "raise trainer.max_steps, or lower stage.total_tokens"
        raise UserError(message, key="stage.total_tokens", value=found.tokens, hint=hint)


def check_points(configs: Sequence[Config]) -> None:
    """Runs that are to be compared and differ in their group size must keep what their budget says.

    Raises:
        UserError: they do not have equal compute.
    """
    alike = defaultdict[Any, list[Compute]](list)
    for cfg in configs:
        if (found := compute(cfg)) is not None:
            alike[found.budget, found.steps, cfg["stage"]["num_iterations"]].append(found)
    for points in alike.values():
        sizes, kept = (sorted({getattr(p, name) or 0 for p in points}) for name in ("group_size", "fixed"))
        if len(sizes) > 1 and len(kept) > 1:
            what = "prompts" if points[0].budget == "prompts" else "completions"
            raise UserError(
                f"these runs do not have equal compute: {what} per step are {', '.join(map(str, kept))}",
                key="stage.group_size",
                value=", ".join(map(str, sizes)),
                expected=f"the same {what} per step in all of them (budget={points[0].budget})",
                hint="leave out stage.examples_per_step, which then follows; or set budget=prompts|steps",
            )


def _prompts(default: int, *, _parent_: Any, _root_: Any) -> int:
    """P where it is not set: B / G, or ``default`` under a budget that leaves the prompts as they are."""
    budget, group_size = _root_.get("budget"), _parent_.get("group_size")
    if budget in ("prompts", "steps") and _follows(_parent_, "sequences_per_step"):
        return default
    return max(1, int(_parent_.sequences_per_step) // group_size) if _is_count(group_size) else default


def _sequences(default: int, *, _parent_: Any, _root_: Any) -> int:
    """B where it is not set: P x G where the prompts are given, else ``default``."""
    prompts, group_size = None, _parent_.get("group_size")
    if not _follows(_parent_, "examples_per_step") or _root_.get("budget") in ("prompts", "steps"):
        prompts = _parent_.examples_per_step
    return prompts * group_size if _is_count(prompts) and _is_count(group_size) else default


def _tokens(default: int, *, _root_: Any) -> int | None:
    """The tokens that end the run, where that is its budget."""
    return default if _root_.get("budget") == "tokens" else None


def _follows(stage: Any, key: str) -> bool:
    return OmegaConf.is_interpolation(stage, key)


def _is_count(value: Any) -> bool:
    """The schema's check comes after the config is resolved, and says what is wrong with anything else."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def register() -> None:
    """Make ``${prompts:16}``, ``${sequences:128}`` and ``${tokens:250_000}`` known to OmegaConf."""
    for name, function in (("prompts", _prompts), ("sequences", _sequences), ("tokens", _tokens)):
        OmegaConf.register_new_resolver(name, function, replace=True)
