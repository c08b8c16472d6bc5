"""Against W&B's own engine, the ``sweeps`` package, in an environment of its own: it wants an old numpy."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from test_space import QUANTILES, space

from r1.experiment.sweep.hyperband import Hyperband
from r1.experiment.sweep.points import num_points

pytestmark = pytest.mark.long
WANTED = ("sweeps==0.3.0", "numpy<2")
ENGINE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import sweeps
from sweeps.params import HyperParameter
asked = json.load(sys.stdin)

def grid(config):
    runs = []
    while (run := sweeps.next_run(config, runs)) is not None:
        run.name, run.state = str(len(runs)), "finished"
        runs.append(run)
    return [{name: held["value"] for name, held in run.config.items()} for run in runs]

def stopped(config, histories):
    logged = [[{"m": value} for value in history] for history in histories]
    runs = [sweeps.SweepRun(name=str(i), state="running", history=rows) for i, rows in enumerate(logged)]
    return sorted(int(run.name) for run in sweeps.stop_runs(config, runs))

def quantile(spec, u):
    value = HyperParameter("x", spec).ppf(u)
    return value.item() if hasattr(value, "item") else value

answers = {
    "quantiles": [[quantile(spec, u) for u in asked["us"]] for spec in asked["specs"]],
    "grids": [grid(config) for config in asked["grids"]],
    "stopped": [stopped(*case) for case in asked["hyperband"]],
}
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the engine's environment, made once."""
    place = Path(tempfile.gettempdir(), "r1-sweeps-engine")
    python = place / "bin" / "python"
    if not (place / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        built = subprocess.run([python, "-m", "pip", "install", "-q", *WANTED], capture_output=True, text=True)
        if built.returncode:
            pytest.skip(f"pip cannot install {' '.join(WANTED)}: {built.stderr.strip()[-200:]}")
        (place / "ready").touch()
    return python


def rules() -> list[tuple[dict[str, Any], str, list[list[float]]]]:
    """Hyperband in all its forms, on histories with many ties."""
    rng, built = random.Random(0), []
    for _ in range(500):
        eta = rng.choice([2, 3, 1.5])
        rule = rng.choice(
            [{"min_iter": rng.randint(1, 4)}, {"max_iter": rng.choice([9, 27, 10]), "s": rng.randint(1, 3)}]
        )
        rule = {"type": "hyperband", "eta": eta, "strict": rng.random() < 0.5} | rule
        histories = [[round(rng.random(), 2) for _ in range(rng.randint(0, 30))] for _ in range(rng.randint(1, 9))]
        built.append((rule, rng.choice(["minimize", "maximize"]), histories))
    return built


def test_quantiles_grids_and_hyperband_match_the_wandb_engine(python: Path) -> None:
    rng = random.Random(1)
    us = sorted(rng.random() for _ in range(200))
    tenths = {"distribution": "q_uniform", "min": 0.0, "max": 0.7, "q": 0.1}
    grids: list[dict[str, Any]] = [
        {"b": {"values": [2, 1, "x"]}, "a": {"min": 1, "max": 3}, "c": tenths, "k": {"value": 7}},
        {"a": {"values": [1, 2]}, "b": {"distribution": "q_uniform", "min": 1, "max": 9, "q": 3}},
    ]
    cases = rules()
    asked = {
        "us": us,
        "specs": [spec for spec, _ in QUANTILES],
        "grids": [{"method": "grid", "parameters": parameters} for parameters in grids],
        "hyperband": [
            ({"method": "random", "metric": {"name": "m", "goal": goal}, "early_terminate": rule}, histories)
            for rule, goal, histories in cases
        ],
    }
    done = subprocess.run([python, "-c", ENGINE], input=json.dumps(asked), capture_output=True, text=True, check=True)
    engine_results = json.loads(done.stdout)
    for (spec, _), values in zip(QUANTILES, engine_results["quantiles"], strict=True):
        parameter = space(x=spec).parameters["x"]
        values_here = [parameter.at(u) for u in us]
        assert values_here == (
            pytest.approx(values, rel=1e-6, abs=1e-12) if isinstance(values[0], float) else values
        ), spec
    for parameters, points in zip(grids, engine_results["grids"], strict=True):
        built = space("grid", **parameters)
        points_here = [built.values(built.grid_point(number)) for number in range(num_points(built.sweep) or 0)]
        assert len(points_here) == len(points)
        assert all(one == pytest.approx(other) for one, other in zip(points_here, points, strict=True))
    stops = []
    for rule, goal, histories in cases:
        own = Hyperband(rule, goal)
        stops.append([i for i, history in enumerate(histories) if own.should_stop(history, histories)])
    assert stops == engine_results["stopped"]
    assert sum(map(len, stops)) > 300
