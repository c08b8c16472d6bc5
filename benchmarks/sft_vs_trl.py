"""SFT steps of r1 and of TRL's SFTTrainer, taken in turn in one run: tokens/s and peak memory.

    python benchmarks/sft_vs_trl.py [--sizes 1M,6M] [--steps 15] [--budget 75] [--quick] [--threads 2] [--device cpu|cuda]
                                    [--trl-packing bfd|wrapped|none] [--trl-length 512] [--trl-micro N]
                                    [--r1 KEY=VALUE ...] [--json]

Both sides learn the same texts whole (20 to 300 tokens, long-tailed, about 80 in the mean) with the same random model
(Qwen2 shape, fp32; bf16 weights on a GPU) and AdamW, each in its own process with the same threads. r1 is what
``python -m r1.run stage=sft`` runs, at its defaults: 64 rows per step. TRL packs rows into blocks and takes as many
per step as hold about the same number of tokens.

How to read it: a pair is one step of each side, who begins changing every time; ``tokens/s`` counts real tokens, no
padding, by the step's whole time, and the ratio is the median over pairs, with the smallest and the largest. ``peak
MB`` is the process's highest resident memory (on a GPU: of torch's allocations), ``above start`` that without what was
there before the first step.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pairs import Job, WorkerFailed, race
from report import Figures, compared, print_header, print_json, print_table, where
from workloads import NEVER, SIZES, save_model, save_texts

ROWS, MEAN_TOKENS = 64, 80
QUICK = {"steps": 5, "budget": 25.0}


def blocks(args: argparse.Namespace) -> int:
    """TRL's sequences per step: rows, or packed blocks of about the same tokens together."""
    return ROWS if args.trl_packing == "none" else round(ROWS * MEAN_TOKENS / args.trl_length)


def measure(size: str, args: argparse.Namespace) -> Figures:
    """Both sides' figures on one model, and their ratios."""
    with TemporaryDirectory() as name:
        dtype = "bfloat16" if args.device == "cuda" else "float32"
        job = Job(
            model=str(save_model(Path(name) / "model", SIZES[size], NEVER, dtype)),
            data=str(save_texts(Path(name) / "texts.jsonl")),
            output=f"{name}/r1",
            device=args.device,
            threads=args.threads,
            sequences=ROWS,
            overrides=args.r1,
        )
        trl = replace(
            job,
            output=f"{name}/trl",
            sequences=blocks(args),
            splits=args.trl_micro or blocks(args),
            packing=args.trl_packing,
            packed_length=args.trl_length,
        )
        return compared(*race("sft", {"r1": job, "trl": trl}, args.steps, args.budget))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1M,6M")
    parser.add_argument("--steps", type=int, default=15, help="pairs that count, at most")
    parser.add_argument("--budget", type=float, default=75.0, help="seconds per size")
    parser.add_argument("--quick", action="store_true", help="other defaults: 5 pairs, 25 seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--trl-packing", choices=["bfd", "wrapped", "none"], default="bfd")
    parser.add_argument("--trl-length", type=int, default=512, help="tokens per packed block")
    parser.add_argument("--trl-micro", type=int, default=0, help="micro-batches of TRL's step; 0: one per block")
    parser.add_argument("--r1", action="append", default=[], metavar="KEY=VALUE", help="a further override for r1")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    args = parser.parse_args()
    args.sizes = args.sizes.split(",")
    if unknown := [name for name in args.sizes if name not in SIZES]:
        parser.error(f"no size {unknown[0]}: there are {', '.join(SIZES)}")
    return args


def main() -> None:
    args = arguments()
    found = where(args.device, args.threads)
    print_header(found)
    results: dict[str, Figures] = {}
    for size in args.sizes:
        try:
            results[size] = measure(size, args)
        except WorkerFailed as error:
            sys.exit(str(error))
        print_table(f"sft {size}: packed rows", results[size])
    if args.json:
        print_json(found, {"sft": results})


if __name__ == "__main__":
    main()
