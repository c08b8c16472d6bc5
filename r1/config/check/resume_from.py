"""``resume_from``: whether a run can go on from the end of another one with values of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1.core import budget, provenance
from r1.core.errors import DATA, UserError, as_yaml_null
from r1.core.runs import read_run
from r1.core.types import Config

MAY_DIFFER = ("model.precision", "model.recipe")  # what the weights and the optimizer's state do not depend on


def resume_from(cfg: Config, num_examples: int | None = None) -> None:
    """A rule of ``r1.config.check.rules``.

    Args:
        num_examples: training examples; None: not known yet.

    Raises:
        UserError: there is no such end of a run, or the weights and the optimizer's state of it do not fit.
    """
    if (path := cfg["resume_from"]) is None:
        return
    if "examples_per_step" not in cfg["stage"]:
        raise UserError("this stage trains nothing", key="resume_from", value=path, expected="null")
    try:
        run = read_run(path)
    except UserError as error:
        error.key = "resume_from"
        raise
    step = int(run.metrics[-1]["step"]) if run.metrics else 0
    message, hint = "", "resume=auto in its folder finishes it"
    if run.manifest["status"] != "finished":
        message = f"this run is {run.manifest['status']}, and a finished one is needed"
    elif not (run.dir / "checkpoints" / f"step_{step:06d}").is_dir():
        message, hint = f"this run has no checkpoint of its end, step {step}", "it was removed, or keep_checkpoints=0"
    if message:
        raise UserError(message, key="resume_from", value=path, hint=hint, code=DATA)
    parents = provenance.find_parents(provenance.input_paths(cfg).values())
    check_continuation(cfg, parents, run.config, run.manifest["parents"], step, num_examples)


def check_continuation(
    cfg: Config,
    parents: list[dict[str, Any]],
    earlier: Config,
    earlier_parents: list[dict[str, Any]],
    step: int | None,
    num_examples: int | None = None,
) -> None:
    """Compare a run with the one whose end it starts from.

    Args:
        step: at the end of the earlier run; None: not known yet.

    Raises:
        UserError: the first difference that cannot be carried over.
    """
    before, now = _carried(earlier, earlier_parents), _carried(cfg, parents)
    for key, old, new in provenance.differences(before, now):
        if not key.startswith(MAY_DIFFER):
            message = f"{key} differs from the run that this one continues"
            hint = f"{key} as in that run; its end's weights replace the model's"
            raise UserError(message, key=key, value=as_yaml_null(new), expected=str(as_yaml_null(old)), hint=hint)
    if step is None:
        return
    if cfg["trainer"]["max_epochs"] is None or num_examples is not None:
        total, key = budget.num_steps(cfg, num_examples or 0), "trainer.max_steps"
        if total <= step:
            message = f"the run before has made {step} steps, and they count: this one would end at step {total}"
            raise UserError(message, key=key, value=total, expected=f"whole number > {step}")
    for config, which in ((earlier, "the run before"), (cfg, "this run")):
        stage = config["stage"]
        steps_per_batch = stage.get("steps_per_rollout", 1) * stage.get("num_iterations", 1)
        if step % steps_per_batch:
            message = f"step {step} lies in the middle of a rollout batch of {which}, of {steps_per_batch} steps"
            hint = f"end the run before at a multiple of {steps_per_batch} steps (steps_per_rollout x num_iterations)"
            raise UserError(message, key="resume_from", value=cfg["resume_from"], hint=hint)


def check_end_checkpoint(cfg: Config, planned: Config) -> None:
    """Raises: UserError: ``cfg`` starts from the end of a run, yet to be made, that will have no checkpoint of it."""
    if planned["keep_checkpoints"] == 0:
        message, hint = "the run before keeps no checkpoint of its end", "keep_checkpoints=1 in that run"
        raise UserError(message, key="resume_from", value=cfg["resume_from"], hint=hint)


def _carried(config: Config, parents: list[dict[str, Any]]) -> dict[str, Any]:
    """The part of a config that a checkpoint's weights and optimizer state belong to."""
    stage = config["stage"]
    node = {"_target_": stage["_target_"], "optimizer": {"_target_": stage["optimizer"]["_target_"]}}
    part: dict[str, Any] = provenance.replace_paths_by_fingerprint({"model": config["model"], "stage": node}, parents)
    return part


def is_end_of(path: str | None, folder: Path) -> bool:
    """Whether ``resume_from`` names the record in ``folder``."""
    return path is not None and Path(path).absolute() == folder.absolute()
