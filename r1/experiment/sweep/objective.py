"""The errors in a sweep's metric: its runs do not log it, its scale varies between points, or the goal is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from r1.core.errors import UserError, suggest
from r1.core.metrics import logged_metrics, meaning, metric_named
from r1.core.types import Config
from r1.experiment.sweep.hyperband import bands_from_max_iter

GOALS = {"higher": "maximize", "lower": "minimize"}
REWARD_KEY = re.compile(r"(^|[.+])reward([./@]|$)")


def objective_errors(metric: str, goal: str, swept: Iterable[str], results: Iterable[Config]) -> Iterator[UserError]:
    """Everything wrong with the metric of a sweep over some parameters.

    Args:
        goal: empty: its error is reported already.
        results: the configs of the runs that are to log the metric.
    """
    key = "metric.name"
    registered = metric_named(metric)
    logged = [set(logged_metrics(cfg)) for cfg in results]
    known = set[str].intersection(*logged) if logged else {metric}
    if metric not in known and not registered.data_dependent:
        message = "no run logs this metric" if not any(metric in one for one in logged) else "not every point logs this"
        of_k = re.match(r"val/(pass|maj)@\d", metric)
        expected = sorted(name for name in known if name.startswith(of_k[0][:-1] if of_k else "val/"))
        hint = "val.ks says which k there are" if of_k else suggest(metric, sorted(known))
        yield UserError(message, key=key, value=metric, expected=expected, hint=hint)
        return
    weights = [name for name in swept if REWARD_KEY.search(name)]
    if weights and registered.scaled_by_reward:
        message = f"its scale changes with the swept weights (`{weights[0]}`), so it compares no points"
        yield UserError(message, key=key, value=metric, hint="val/pass@1, which no weight changes")
    better = GOALS[registered.better] if registered.better else goal
    if goal and goal != better:
        message = f"the sweep would look for the worst: {meaning(metric)}"
        yield UserError(message, key="metric.goal", value=goal, hint=f"goal: {better}")


def hyperband_errors(spec: dict[str, Any], metric: str, cfg: Config) -> Iterator[UserError]:
    """A first band that no run reaches: bands count values of the metric, of which a run logs few."""
    if not metric.startswith("val/"):
        return
    steps, every = cfg["trainer"]["max_steps"], cfg["val"]["every"]
    if steps is None:  # trainer.max_epochs: known once the data is read
        return
    count = 1 + -(-steps // every) if "examples_per_step" in cfg["stage"] else 1
    key = "min_iter" if "min_iter" in spec else "max_iter"
    first = min(bands_from_max_iter(spec), default=spec[key])
    if first >= count:
        message = f"no run would be stopped: the first band is at value {first} of the metric, and a run has {count}"
        yield UserError(message, key=f"early_terminate.{key}", value=spec[key], hint="lower it, or lower val.every")
