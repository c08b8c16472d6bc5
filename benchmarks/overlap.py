"""rollout.async_steps=1 against 0: tokens per second of GRPO when the next batch is sampled during the update.

    python benchmarks/overlap.py [--workloads a,b] [--size 1M|6M] [--steps 24] [--rounds 3] [--json]

Each case is a real ``python -m r1.run`` on the workloads of grpo_vs_trl.py. With async_steps=1 ``threads`` are shared
out: two threads are one for each process. The cases take turns for ``--rounds`` rounds. A run's time is the slope
between its third step and its last, so the start, the first batch (which nothing can hide) and what is loaded lie
outside; a case's figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import print_header, where
from watch import watched
from workloads import SIZES, WORKLOADS, Workload, save_model, save_prompts

FIRST = 3  # the step from which on is measured
CASES = [(0, 1), (0, 2), (1, 2)]  # async_steps, threads
RIVAL = (0, 2)
KNOBS = ["stage=grpo", "stage.lr=1e-7", "stage.schedule=constant", "stage.warmup_steps=0", "trainer.accelerator=cpu"]
KNOBS += ["val.every=1000000", "val.num_prompts=1", "val.num_samples=1", "val.ks=[1]", "data.num_val=1"]
KNOBS += ["checkpoint_every=1000000", "keep_best=false", "data=dataset", "data/template=r1_zero"]
KNOBS += ["data.template.text='{prompt}'", "~reward.terms.accuracy", "~reward.terms.format", "extensions=[workloads]"]
KNOBS += ["+reward.terms.digits={_target_: workloads.digits, weight: 1.0}"]
Figures = dict[str, Any]


def measure(workload: Workload, case: tuple[int, int], inputs: Path, steps: int) -> float:
    """One run: completion tokens per second."""
    async_steps, threads = case
    with TemporaryDirectory() as name:
        folder = Path(name) / "run"
        argv = [*KNOBS, f"model.path={inputs}/model", f"data.path={inputs}/prompts.jsonl", f"output_dir={folder}"]
        argv += [f"threads={threads}", f"trainer.max_steps={steps}", f"rollout.async_steps={async_steps}"]
        argv += [f"rollout.max_completion_length={workload.limit}"]
        argv += [f"stage.examples_per_step={workload.prompts}", f"stage.group_size={workload.group}"]
        ended = [seconds for seconds, _ in watched(argv, folder, threads)]
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lengths = [row["train/completion_length"] for row in rows if "train/loss" in row]
    tokens = sum(lengths[FIRST:]) * workload.prompts * workload.group
    return float(tokens / (ended[-1] - ended[FIRST - 1]))


def compared(name: str, args: argparse.Namespace) -> list[Figures]:
    """Every case of one workload: the median of its rounds, and of its ratios to ``RIVAL``."""
    workload = WORKLOADS[name]
    with TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", SIZES[args.size], workload.end, "float32")
        save_prompts(Path(folder) / "prompts.jsonl", workload.prompt_tokens)
        rounds = [
            {case: measure(workload, case, Path(folder), args.steps) for case in CASES} for _ in range(args.rounds)
        ]
    rows = []
    for case in CASES:
        ratios = [found[case] / found[RIVAL] for found in rounds]
        speed = statistics.median(found[case] for found in rounds)
        row = {"workload": name, "async_steps": case[0], "threads": case[1], "tokens_per_s": speed}
        rows.append(row | {"ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)})
    return rows


def show(row: Figures) -> None:
    case = f"async_steps={row['async_steps']} threads={row['threads']}"
    spread = f"{row['ratio']:.2f} ({row['min']:.2f} to {row['max']:.2f})"
    print(f"  {case}  {row['tokens_per_s']:8,.0f} tokens/s  {spread}")


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--workloads", default="a,b")
    made.add_argument("--size", default="1M", choices=["1M", "6M"])
    made.add_argument("--steps", type=int, default=24)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--json", action="store_true", help="one last line of JSON")
    return made


def main() -> None:
    args = parser(__doc__ or "").parse_args()
    found, results = where("cpu", 1), list[Figures]()
    print_header(found)
    for name in args.workloads.split(","):
        print(f"\n{name} {args.size}: {WORKLOADS[name].what}; the last column is against async_steps=0 threads=2")
        rows = compared(name, args)
        for row in rows:
            show(row)
        results += rows
    if args.json:
        print(json.dumps({"rows": results, "size": args.size, **found}))


if __name__ == "__main__":
    main()
