"""GRPO steps of r1 and of TRL's GRPOTrainer, taken in turn in one run: tokens/s, the step's parts, peak memory.

    python benchmarks/grpo_vs_trl.py [--workloads a,b,c,d] [--sizes 1M,6M] [--steps 15] [--budget 75] [--quick]
                                     [--threads 2] [--device cpu|cuda] [--splits 4] [--cache dynamic|static]
                                     [--lora RANK] [--r1 KEY=VALUE ...] [--json]

Both sides train the same random model (Qwen2 shape, fp32; bf16 weights on a GPU) on the same prompts with the same
group size, sampling, loss (dapo), AdamW and reward, each in its own process with the same threads. r1 is what
``python -m r1.run stage=grpo`` runs, at its defaults. TRL is at the settings that are fastest for it: no reference
model, no recomputation, no logging, completions from transformers' ``generate``, a step cut into ``--splits``
micro-batches: probed at 1M, 4 was the fastest of 1, 2, 4 and 8 or level with it on a, b and c, and 4 was faster than 1
and 8 on d; it also takes less memory than 1.

    a   8 prompts of 16 tokens x 8 completions of exactly 64 tokens
    b   the same prompts, geometric lengths: mean about 63, at most 256
    c   4 prompts of 256 tokens x 16 completions of exactly 64 tokens
    d   as a, with a vocabulary of 151,936 and a body of 2 layers of 64
    g8, g16   the shape of Qwen2 0.5B, 8 prompts of 64 tokens x 8 or 16 completions of exactly 512 (for a GPU)

How to read it: a pair is one step of each side, who begins changing every time; per workload and model there are up to
``--steps`` pairs, fewer when ``--budget`` seconds are over, at least two. ``tokens/s`` of a side is the median
over its steps of completion tokens by the step's whole time, and the ratio is the median over pairs, with the smallest
and the largest. ``peak MB`` is the process's highest resident memory (on a GPU: of torch's allocations), ``above
start`` that without what was there before the first step. ``limit`` is what the matrix products alone would take
(limit.py), with the share of it that each side reaches.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pairs import SIDES, Job, WorkerFailed, race
from report import Figures, compared, print_header, print_json, print_table, where
from workloads import SIZES, WORKLOADS, Workload, save_model, save_prompts

QUICK = {"sizes": "1M", "steps": 3, "budget": 25.0}


def job_of(workload: Workload, size: str, folder: Path, args: argparse.Namespace) -> Job:
    dtype = "bfloat16" if args.device == "cuda" else "float32"
    return Job(
        model=str(save_model(folder / "model", SIZES[size], workload.end, dtype)),
        data=str(save_prompts(folder / "prompts.jsonl", workload.prompt_tokens)),
        output=str(folder),
        device=args.device,
        threads=args.threads,
        sequences=workload.prompts * workload.group,
        group=workload.group,
        limit=workload.limit,
        splits=args.splits,
        cache=args.cache,
        lora=args.lora,
        overrides=args.r1,
    )


def measure(workload: Workload, size: str, args: argparse.Namespace) -> Figures:
    """One workload on one model: both sides' figures, their ratios, the limit."""
    from limit import step_limit

    with TemporaryDirectory() as name:
        job = job_of(workload, size, Path(name), args)
        jobs = {side: replace(job, output=f"{name}/{side}") for side in SIDES}
        result = compared(*race("grpo", jobs, args.steps, args.budget))
    tokens = sum(result[side]["tokens_per_step"] for side in SIDES) / len(SIDES)
    limit = step_limit(workload, SIZES[size], tokens, args.device)
    shares = {f"share_{side}": limit["step_s"] / result[side]["step_s"] for side in SIDES}
    return result | {"splits": job.splits, "limit": limit | shares}


def print_limit(limit: dict[str, float]) -> None:
    shares = ", ".join(f"{side} reaches {limit[f'share_{side}']:.0%}" for side in SIDES)
    rates = f"{limit['gflops_decode']:.0f} GFLOP/s decoding, {limit['gflops_train']:.0f} training"
    print(f"  limit of the matrix products {limit['step_s']:.3f} s/step ({rates}): {shares}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="a,b,c,d")
    parser.add_argument("--sizes", default="1M,6M")
    parser.add_argument("--steps", type=int, default=15, help="pairs that count, at most")
    parser.add_argument("--budget", type=float, default=75.0, help="seconds per workload and size")
    parser.add_argument("--quick", action="store_true", help="other defaults: 1M only, 3 pairs, 25 seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--splits", type=int, default=4, help="TRL's micro-batches per step")
    parser.add_argument("--cache", choices=["dynamic", "static"], default="dynamic", help="of TRL's generate")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="train adapters on all linear layers")
    parser.add_argument("--r1", action="append", default=[], metavar="KEY=VALUE", help="a further override for r1")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    args = parser.parse_args()
    args.workloads, args.sizes = args.workloads.split(","), args.sizes.split(",")
    if unknown := [name for name in args.workloads if name not in WORKLOADS]:
        parser.error(f"no workload {unknown[0]}: there are {', '.join(WORKLOADS)}")
    if unknown := [name for name in args.sizes if name not in SIZES]:
        parser.error(f"no size {unknown[0]}: there are {', '.join(SIZES)}")
    return args


def main() -> None:
    args = arguments()
    found = where(args.device, args.threads)
    print_header(found)
    results: dict[str, Figures] = {}
    for name in args.workloads:
        workload = WORKLOADS[name]
        for size in [workload.size] if workload.size else args.sizes:
            try:
                result = measure(workload, size, args)
            except WorkerFailed as error:
                sys.exit(str(error))
            results.setdefault(name, {})[size] = result
            print_table(f"{name} {size}: {workload.what}", result)
            print_limit(result["limit"])
    if args.json:
        print_json(found, results)


if __name__ == "__main__":
    main()
