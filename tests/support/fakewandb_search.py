"""The next point of a sweep. Grid and random as in W&B; bayes is a stand-in."""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any

Json = dict[str, Any]


def search(config: Json, runs: list[Json]) -> Json | None:
    """The values of the next run as ``{name: {"value": v}}``; None: the space is exhausted."""
    specs = config["parameters"]
    if config["method"] == "grid":
        points = list(itertools.product(*(choices(spec) for spec in specs.values())))
        values = dict(zip(specs, points[len(runs)], strict=True)) if len(runs) < len(points) else None
    elif config["method"] == "bayes":
        values = near_the_best(config, runs)
    else:
        values = {name: drawn(spec) for name, spec in specs.items()}
    return None if values is None else {name: {"value": value} for name, value in values.items()}


def choices(spec: Json) -> list[Any]:
    if "value" in spec:
        return [spec["value"]]
    return list(spec["values"] if "values" in spec else range(spec["min"], spec["max"] + 1))


def drawn(spec: Json) -> Any:
    if "value" in spec or "values" in spec:
        return random.choices(choices(spec), spec.get("probabilities"))[0]
    low, high = spec["min"], spec["max"]
    if spec.get("distribution") == "log_uniform_values":
        return math.exp(random.uniform(math.log(low), math.log(high)))
    return random.randint(low, high) if isinstance(low, int) and isinstance(high, int) else random.uniform(low, high)


def near_the_best(config: Json, runs: list[Json]) -> Json:
    """The best point with one value drawn again; like W&B's Gaussian process, it needs results."""
    sign = 1 if config["metric"]["goal"] == "maximize" else -1
    scored = [(json.loads(run["summaryMetrics"]).get(config["metric"]["name"]), run) for run in runs]
    scored = [(sign * value, run) for value, run in scored if value is not None]
    if not scored:
        return {name: drawn(spec) for name, spec in config["parameters"].items()}
    values = json.loads(max(scored, key=lambda pair: pair[0])[1]["config"])
    best = {name: values[name]["value"] for name in config["parameters"]}
    name = random.choice([name for name, spec in config["parameters"].items() if "value" not in spec])
    return best | {name: drawn(config["parameters"][name])}
