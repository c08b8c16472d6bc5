"""stage.steps_per_rollout=S against 1: what a completion token costs, sampled and trained on.

    python benchmarks/minibatches.py [--workloads a,b] [--size 1M|6M] [--steps 24] [--rounds 3] [--json]

Each case is a real ``python -m r1.run`` on the workloads of grpo_vs_trl.py. The cases take turns for ``--rounds``
rounds. A run's time is the slope between the end of its fourth step and its last, so both hold whole rollout batches; a
case's figure is the median of its rounds.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import overlap
from report import print_header, where
from watch import watched
from workloads import SIZES, WORKLOADS, Workload, save_model, save_prompts

FIRST = 4  # steps before the measured ones: one rollout batch of the largest case
CASES = [1, 2, 4]  # S
Figures = dict[str, Any]


def measure(workload: Workload, steps_per_rollout: int, inputs: Path, steps: int) -> float:
    """One run: microseconds per completion token."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "run"
        argv = [*overlap.KNOBS, f"model.path={inputs}/model", f"data.path={inputs}/prompts.jsonl"]
        argv += [f"output_dir={folder}", "threads=2", f"trainer.max_steps={steps}"]
        argv += [f"stage.steps_per_rollout={steps_per_rollout}", f"rollout.max_completion_length={workload.limit}"]
        argv += [f"stage.examples_per_step={workload.prompts}", f"stage.group_size={workload.group}"]
        ended = [seconds for seconds, _ in watched(argv, folder, 2)]
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    totals = [row["train/total_tokens"] for row in rows if "train/loss" in row]
    return float(1e6 * (ended[-1] - ended[FIRST - 1]) / (totals[-1] - totals[FIRST - 1]))


def compared(name: str, size: str, steps: int, num_rounds: int) -> list[Figures]:
    """Every case of one workload: the median of its rounds, and of its ratios to S = 1."""
    workload = WORKLOADS[name]
    with TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", SIZES[size], workload.end, "float32")
        save_prompts(Path(folder) / "prompts.jsonl", workload.prompt_tokens)
        rounds = [{case: measure(workload, case, Path(folder), steps) for case in CASES} for _ in range(num_rounds)]
    rows = []
    for case in CASES:
        ratios = [found[case] / found[1] for found in rounds]
        row = {"workload": name, "steps_per_rollout": case}
        row["us_per_token"] = statistics.median(found[case] for found in rounds)
        rows.append(row | {"ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)})
    return rows


def main() -> None:
    args = overlap.parser(__doc__ or "").parse_args()
    found, results = where("cpu", 1), list[Figures]()
    print_header(found)
    for name in args.workloads.split(","):
        print(f"\n{name} {args.size}: {WORKLOADS[name].what}; the last column is against S = 1")
        for row in compared(name, args.size, args.steps, args.rounds):
            spread = f"{row['ratio']:.2f} ({row['min']:.2f} to {row['max']:.2f})"
            print(f"  S={row['steps_per_rollout']}  {row['us_per_token']:8,.1f} us/token  {spread}")
            results.append(row)
    if args.json:
        print(json.dumps({"rows": results, "size": args.size, **found}))


if __name__ == "__main__":
    main()
