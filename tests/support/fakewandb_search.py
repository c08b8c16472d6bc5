"""Which point a sweep tries next. Grid and random as W&B has them; for bayes a stand-in of our own."""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any

Held = dict[str, Any]


def search(config: Held, runs: list[Held]) -> Held | None:
    """The values of the next run as ``{name: {"value": v}}``; None: the space is spent."""
    specs = config["parameters"]
    if config["method"] == "grid":
        points = list(itertools.product(*(choices(spec) for spec in specs.values())))
        values = dict(zip(specs, points[len(runs)], strict=True)) if len(runs) < len(points) else None
    elif config["method"] == "bayes":
        values = near_the_best(config, runs)
    else:
        values = {name: drawn(spec) for name, spec in specs.items()}
    return None if values is None else {name: {"value": value} for name, value in values.items()}


def choices(spec: Held) -> list[Any]:
    if "value" in spec:
        return [spec["value"]]
    return list(spec["values"] if "values" in spec else range(spec["min"], spec["max"] + 1))


def drawn(spec: Held) -> Any:
    if "value" in spec or "values" in spec:
        return random.choices(choices(spec), spec.get("probabilities"))[0]
    low, high = spec["min"], spec["max"]
    if spec.get("distribution") == "log_uniform_values":
        return math.exp(random.uniform(math.log(low), math.log(high)))
    return random.randint(low, high) if isinstance(low, int) and isinstance(high, int) else random.uniform(low, high)


def near_the_best(config: Held, runs: list[Held]) -> Held:
    """Not W&B's Gaussian process, only something that needs results too: the best point with one value drawn again."""
    sign = 1 if config["metric"]["goal"] == "maximize" else -1
    scored = [(json.loads(run["summaryMetrics"]).get(config["metric"]["name"]), run) for run in runs]
    scored = [(sign * value, run) for value, run in scored if value is not None]
    if not scored:
        return {name: drawn(spec) for name, spec in config["parameters"].items()}
    held = json.loads(max(scored, key=lambda pair: pair[0])[1]["config"])
    best = {name: held[name]["value"] for name in config["parameters"]}
    name = random.choice([name for name, spec in config["parameters"].items() if "value" not in spec])
    return best | {name: drawn(config["parameters"][name])}
