"""The callbacks of a config: those that cannot work in r1, and metrics that early stopping would never see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1.config.check.schema import GROUP_PACKAGES, is_inside, resolve
from r1.core.errors import UserError, suggest
from r1.core.metrics import logged_metrics, metric_named
from r1.core.types import Config

if TYPE_CHECKING:
    from lightning import Callback

REFUSED = {  # Lightning's class -> why its subclasses are refused, and a hint
    "Checkpoint": ("r1 writes the checkpoints, exact and complete", "checkpoint_every=N, keep_best=true, resume=auto"),
    "ProgressBar": ("r1 shows the progress", "leave it out"),
    "BatchSizeFinder": ("a step has the same result at any micro-batch", "stage.micro_batch_size=N"),
    "GradientAccumulationScheduler": ("r1 cuts the micro-batches", "stage.micro_batch_size=N"),
    "LearningRateFinder": ("it would train steps that are not in the record", "a sweep over stage.lr"),
    "StochasticWeightAveraging": ("it replaces the schedule, by epochs", "stage.schedule=cosine"),
    "WeightAveraging": ("the average would be neither in model/ of every resumed run nor in rollouts", "leave it out"),
    "BaseFinetuning": ("it freezes layers by epochs", "model/lora=default"),
    "ModelPruning": ("it renames the weights that r1 exports", "leave it out"),
}
MODES = {"higher": "max", "lower": "min"}


def callbacks(cfg: Config) -> None:
    """A rule of ``r1.config.check.rules``."""
    from lightning.pytorch import callbacks as lightning

    for name, node in cfg["callbacks"].items():
        key, target = f"callbacks.{name}", resolve(node["_target_"], f"callbacks.{name}", cfg["extensions"])
        if not isinstance(target, type):
            continue
        for refused, (reason, hint) in REFUSED.items():
            if issubclass(target, getattr(lightning, refused)):
                message = f"{target.__name__} does not work here: {reason}"
                raise UserError(message, key=f"{key}._target_", value=node["_target_"], hint=hint)
        if issubclass(target, lightning.EarlyStopping):
            _check_early_stopping(cfg, node, key)


def _check_early_stopping(cfg: Config, node: Config, key: str) -> None:
    if "examples_per_step" not in cfg["stage"]:
        raise UserError("this stage trains nothing that could be stopped", key=key, hint=f"~{key}")
    if node.get("check_on_train_epoch_end"):
        message, hint = "training is one epoch to Lightning, so nothing would be stopped", "leave it out"
        raise UserError(message, key=f"{key}.check_on_train_epoch_end", value=True, expected="null", hint=hint)
    monitor, known = node.get("monitor"), logged_metrics(cfg)
    own = {"r1", *GROUP_PACKAGES.values()}
    may_log = any(not is_inside(other["_target_"], own) for other in cfg["callbacks"].values())
    if not isinstance(monitor, str) or monitor not in known:
        if isinstance(monitor, str) and (metric_named(monitor).data_dependent or may_log):
            return
        raise unknown_monitor(monitor, known, key)
    better = metric_named(monitor).better
    if better and node.get("mode", "min") != MODES[better]:
        message = f"it would stop a run that improves: of {monitor} the {better} value is better"
        raise UserError(message, key=f"{key}.mode", value=node.get("mode", "min"), expected=MODES[better])


def unknown_monitor(monitor: object, known: list[str], key: str) -> UserError:
    """The error of a metric that no validation of this run has."""
    message = "this run logs no such metric" if isinstance(monitor, str) else "early stopping needs a metric"
    hint = suggest(str(monitor), known) if isinstance(monitor, str) else "val/pass@1"
    expected = [name for name in known if name.startswith("val/")] + [n for n in known if not n.startswith("val/")]
    return UserError(message, key=f"{key}.monitor", value=monitor, expected=expected, hint=hint)


def check_state_keys(built: dict[str, Callback]) -> None:
    """Two callbacks may not have one key in a checkpoint.

    Raises:
        UserError: they have, and the state of one would replace that of the other.
    """
    from lightning import Callback

    first: dict[str, str] = {}
    for name, callback in built.items():
        if type(callback).state_dict is Callback.state_dict:
            continue
        if other := first.get(callback.state_key):
            message = f"in a checkpoint its state would replace that of callbacks.{other}"
            hint = "give its class a `state_key` that tells them apart"
            raise UserError(message, key=f"callbacks.{name}", value=callback.state_key, hint=hint)
        first[callback.state_key] = name
