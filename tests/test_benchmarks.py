"""The benchmarks start, and print what they promise; what they measure is for a quiet machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.long


def printed(*argv: str, seconds: float = 500) -> dict[str, Any]:
    """The last line of a benchmark, which is JSON."""
    command = [sys.executable, *argv, "--json"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("name", "argv"), [("grpo", ["--workloads", "a", "--sizes", "1M"]), ("sft", ["--sizes", "1M"])]
)
def test_steps_of_both_sides_are_taken_in_turn(name: str, argv: list[str]) -> None:
    found = printed(f"{name}_vs_trl.py", "--steps", "2", "--budget", "1", "--threads", "1", *argv)
    results = [result for sizes in found["workloads"].values() for result in sizes.values()]
    for result in results:
        ratio = result["ratio"]
        assert ratio["tokens_per_s_min"] <= ratio["tokens_per_s"] <= ratio["tokens_per_s_max"]
        assert ratio["memory"] > 0
    assert results


def test_every_case_of_the_minibatches_has_its_cost() -> None:
    rows = printed("minibatches.py", "--workloads", "a", "--steps", "8", "--rounds", "1")["rows"]
    assert [row["steps_per_rollout"] for row in rows] == [1, 2, 4]
    assert all(row["us_per_token"] > 0 for row in rows)
    assert rows[0]["ratio"] == 1


def test_families_have_their_decoders_and_rates() -> None:
    rows = printed("families.py", "--families", "gemma2,opt", "--rounds", "1")["rows"]
    assert [(row["family"], row["decoder"], row["packing"]) for row in rows] == [
        ("gemma2", "LlamaDecoder", True),
        ("opt", "SharedPrefixDecoder", True),
    ]
    assert all(row["ratio"] > 0 for row in rows)


def test_every_bound_of_the_micro_batches_has_its_rate_and_memory() -> None:
    rows = printed("micro_batch_tokens.py", "--steps", "3", "--rounds", "1")["rows"]
    assert [row["micro_batch"] for row in rows] == ["size=64", "size=8", "tokens=4096", "tokens=1024"]
    assert all(row["tokens_per_s"] > 0 and row["megabytes"] > 0 for row in rows)


def test_every_case_of_the_overlap_has_its_rate() -> None:
    rows = printed("overlap.py", "--workloads", "a", "--steps", "5", "--rounds", "1")["rows"]
    assert [(row["async_steps"], row["threads"]) for row in rows] == [(0, 1), (0, 2), (1, 2)]
    assert all(row["tokens_per_s"] > 0 for row in rows)
    assert rows[1]["ratio"] == 1


def test_processes_and_what_they_tell_each_other() -> None:
    alone, two = printed("scaling.py", "--stages", "sft", "--strategies", "ddp", "--processes", "1,2", "--steps", "6")[
        "rows"
    ]
    assert alone["bytes_per_step"] < 1000 < two["bytes_per_step"]
    assert two["model_sizes"] == pytest.approx(2, rel=0.1)  # a ring of two sends 2 (n - 1) model sizes


ROOM = shutil.disk_usage(tempfile.gettempdir()).free


@pytest.mark.parametrize(
    "rows",
    [1_000_000, pytest.param(10_000_000, marks=pytest.mark.skipif(ROOM < 30e9, reason="11 GB of rows, twice"))],
)
def test_start_with_many_rows_takes_bounded_memory(rows: int) -> None:
    """A file of 1.1 and of 11 GB."""
    counts = ["1000", str(rows)]
    small, large = printed("data.py", "--rows", *counts, "--stage", "eval", seconds=rows / 500)["rows"]
    assert large["first_anonymous_gb"] - small["second_anonymous_gb"] < 0.6
    assert large["second_anonymous_gb"] - small["second_anonymous_gb"] < 0.6
    assert large["second_s"] - small["second_s"] < 3
