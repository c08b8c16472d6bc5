"""GRPO on one GPU in a few minutes: r1, TRL, and r1 with larger groups, FSDP2 and adapters; the shape of Qwen2 0.5B.

    python benchmarks/gpu.py [--steps 3] [--trl-steps 1] [--threads 4] [--out FILE.jsonl]

8 prompts of 64 tokens x 8 completions of exactly 512 (16 in ``group of 16``), bf16 weights, AdamW, 16 sequences per
micro-batch on both sides. The workers are those of grpo_vs_trl.py, which takes pairs and more time
(``--device cuda --workloads g8,g16``). All of them are started together and then take their steps one after the other,
each with the GPU to itself; r1's first step, in which it sets itself up, is left out, and so is TRL's where it takes
more than one. ``--out`` gets every step and each worker's peak of torch's allocations, as JSON lines.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from grpo_vs_trl import job_of
from pairs import Job, Step, Worker
from report import print_header, summary, where
from workloads import WORKLOADS

MICRO_BATCH = 16  # sequences
COLUMNS = ("tokens/s", "s/step", "rollout", "update", "peak MB")


def jobs_of(folder: Path, args: argparse.Namespace) -> dict[str, tuple[str, Job]]:
    """Name in the table -> the worker's module and what it does."""
    job = replace(job_of(WORKLOADS["g8"], "0.5B", folder, args), overrides=[f"stage.micro_batch_size={MICRO_BATCH}"])
    jobs = {
        "r1": ("r1_grpo", job),
        "trl": ("trl_grpo", job),
        "r1, group of 16": ("r1_grpo", replace(job, sequences=2 * job.sequences, group=2 * job.group)),
        "r1, strategy=fsdp": ("r1_grpo", replace(job, overrides=[*job.overrides, "strategy=fsdp"])),
        "r1, adapters of rank 16": ("r1_grpo", replace(job, lora=16)),
    }
    return {
        name: (module, replace(part, output=str(folder / f"worker{number}")))
        for number, (name, (module, part)) in enumerate(jobs.items())
    }


def print_row(name: str, steps: list[Step], memory: Step) -> None:
    counted = summary(steps[1:] or steps, memory)
    cells = (counted[key] for key in ("tokens_per_s", "step_s", "rollout_s", "update_s", "peak_mb"))
    formats = (",.0f", ".2f", ".2f", ".2f", ",.0f")
    print(f"  {name:24}" + "".join(f"{cell:>10{form}}" for cell, form in zip(cells, formats, strict=True)), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--trl-steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--out", type=Path, default=None)
    parser.set_defaults(device="cuda", splits=64 // MICRO_BATCH, cache="dynamic", lora=0, r1=[])
    return parser.parse_args()


def main() -> None:
    args = arguments()
    print_header(where(args.device, args.threads))
    print("  " + " " * 24 + "".join(f"{heading:>10}" for heading in COLUMNS))
    with TemporaryDirectory() as name, ExitStack() as stack:
        jobs = jobs_of(Path(name), args)
        workers = {name: stack.enter_context(Worker(*job)) for name, job in jobs.items()}
        for worker in workers.values():
            worker.report()  # it stands at its first gate
        for name, worker in workers.items():
            steps = [worker.tell("go") for _ in range(args.trl_steps if name == "trl" else args.steps)]
            memory = worker.tell("stop")
            print_row(name, steps, memory)
            if args.out:
                with args.out.open("a") as file:
                    file.writelines(json.dumps({"worker": name} | row) + "\n" for row in [*steps, memory])


if __name__ == "__main__":
    main()
