"""stage.micro_batch_tokens against micro_batch_size: SFT on long-tailed lengths, tokens per second and peak memory.

    python benchmarks/micro_batch_tokens.py [--size 1M|6M] [--steps 12] [--rounds 3] [--json]

Each case is a real ``python -m r1.run`` on 64 rows per step, whose lengths are log-normal: median 64 tokens, one in 100
above 650, at most 1,000. The cases take turns for ``--rounds`` rounds. A run's time is the slope between the end of its
second step and its last. Memory is the process's peak resident set. A case's figures are the medians of its rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import print_header, where
from watch import watched
from workloads import NEVER, SIZES, save_model

ROWS, MEDIAN, SIGMA, LONGEST, THREADS = 64, 64, 1.0, 1000, 2
FIRST = 2  # steps before the measured ones
CASES = ["size=64", "size=8", "tokens=4096", "tokens=1024"]  # stage.micro_batch_*
KNOBS = ["stage=sft", "stage.lr=1e-7", "trainer.accelerator=cpu", "val.every=1000000", "val.num_prompts=1"]
KNOBS += ["val.num_samples=1", "val.ks=[1]", "data.num_val=1", "checkpoint_every=1000000", "keep_best=false"]
KNOBS += ["data=dataset", "data/template=r1_zero", "data.template.text='{prompt}'", "rollout.max_completion_length=8"]
Figures = dict[str, Any]


def save_rows(file: Path, count: int) -> None:
    """Rows of digits, a token each."""
    draw = random.Random(0)
    with file.open("w") as out:
        for _ in range(count):
            length = min(LONGEST, max(2, round(MEDIAN * math.exp(SIGMA * draw.gauss(0, 1)))))
            digits = "".join(draw.choices("0123456789", k=length))
            out.write(json.dumps({"prompt": digits[:1], "completion": digits[1:], "answer": digits[-1]}) + "\n")


def peak_of_run() -> int:
    """Peak resident set of the run that is watched, kB."""
    (pid,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(case: str, inputs: Path, steps: int) -> Figures:
    """One run: target tokens per second, and MB."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "run"
        argv = [*KNOBS, f"model.path={inputs}/model", f"data.path={inputs}/rows.jsonl", f"output_dir={folder}"]
        argv += [f"threads={THREADS}", f"trainer.max_steps={steps}", f"stage.examples_per_step={ROWS}"]
        argv += [f"stage.micro_batch_{case}", *["stage.micro_batch_size=null"] * case.startswith("tokens")]
        seen = watched(argv, folder, THREADS, peak_of_run)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tokens = [row["train/num_tokens"] for row in rows if "train/loss" in row]
    seconds = seen[-1][0] - seen[FIRST - 1][0]
    return {"tokens_per_s": sum(tokens[FIRST:]) / seconds, "megabytes": max(peak for _, peak in seen) / 1024}


def compared(size: str, steps: int, num_rounds: int) -> list[Figures]:
    with TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", SIZES[size], NEVER, "float32")
        save_rows(Path(folder) / "rows.jsonl", 1 + ROWS * steps)
        rounds = [{case: measure(case, Path(folder), steps) for case in CASES} for _ in range(num_rounds)]
    return [
        {"micro_batch": case}
        | {name: statistics.median(found[case][name] for found in rounds) for name in rounds[0][case]}
        for case in CASES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1M", choices=["1M", "6M"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = where("cpu", 1)
    print_header(found)
    results = compared(args.size, args.steps, args.rounds)
    for row in results:
        figures = f"{row['tokens_per_s']:10,.0f} tokens/s {row['megabytes']:8,.0f} MB"
        print(f"  micro_batch_{row['micro_batch']:12} {figures}")
    if args.json:
        print(json.dumps({"rows": results, "size": args.size, **found}))


if __name__ == "__main__":
    main()
