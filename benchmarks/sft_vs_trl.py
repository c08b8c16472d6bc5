"""SFT steps of r1 and of TRL's SFTTrainer, taken in turn in one run: tokens/s and peak memory.

    python benchmarks/sft_vs_trl.py [--trl bfd,wrapped,grouped] [--sizes 1M,6M] [--steps 16] [--budget 60] [--quick]
                                    [--threads 2] [--device cpu|cuda] [--r1 KEY=VALUE ...] [--json]

Both sides learn the same texts whole (20 to 300 tokens, long-tailed, about 80 in the mean) with the same random model
(Qwen2 shape, fp32; bf16 weights on a GPU) and AdamW, each in its own process with the same threads. r1 is what
``python -m r1.run stage=sft`` runs, at its defaults: 64 rows per step. TRL takes about the same number of tokens per
step, in three ways, each with the block length and the micro-batches that were the fastest for it on a CPU:

    bfd       rows packed whole into blocks, no row sees another (packing_strategy=bfd): the same loss as r1's
    wrapped   rows cut into full blocks and seen across their ends (packing_strategy=wrapped): not quite the same loss
    grouped   no packing: batches of rows of like length, padded (train_sampling_strategy=group_by_length), which are
              no random batches any more; steps differ much in length, so take a multiple of 8

How to read it: a pair is one step of each side, who begins changing every time; per way and model there are up to
``--steps`` pairs, fewer when ``--budget`` seconds are over, at least two. ``tokens/s`` counts real tokens, no padding,
by the step's whole time; the ratio is the median over pairs, with the smallest and the largest. ``peak MB`` is the
process's highest resident memory (on a GPU: of torch's allocations), ``above start`` that without what was there
before the first step.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pairs import Job, WorkerFailed, race
from report import Figures, compared, print_header, print_json, print_table, where
from workloads import NEVER, SIZES, save_model, save_texts

ROWS = 64
QUICK = {"steps": 4, "budget": 20.0}


@dataclass(frozen=True)
class Way:
    """How TRL makes a step: ``sequences`` blocks of ``length`` tokens (or rows) in ``splits`` micro-batches."""

    packing: str
    length: int
    sequences: int
    splits: int


WAYS = {  # about 5,100 tokens per step each
    "bfd": Way("bfd", length=304, sequences=17, splits=17),
    "wrapped": Way("wrapped", length=304, sequences=16, splits=4),
    "grouped": Way("none", length=512, sequences=ROWS, splits=4),
}


def measure(way: Way, size: str, args: argparse.Namespace) -> Figures:
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
            sequences=way.sequences,
            splits=way.splits,
            packing=way.packing,
            packed_length=way.length,
        )
        return compared(*race("sft", {"r1": job, "trl": trl}, args.steps, args.budget))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", default=",".join(WAYS), help="ways of TRL to make a batch")
    parser.add_argument("--sizes", default="1M,6M")
    parser.add_argument("--steps", type=int, default=16, help="pairs that count, at most")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds per way and size")
    parser.add_argument("--quick", action="store_true", help="other defaults: 4 pairs, 20 seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--r1", action="append", default=[], metavar="KEY=VALUE", help="a further override for r1")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    args = parser.parse_args()
    args.trl, args.sizes = args.trl.split(","), args.sizes.split(",")
    if unknown := [name for name in args.trl if name not in WAYS]:
        parser.error(f"no way {unknown[0]}: there are {', '.join(WAYS)}")
    if unknown := [name for name in args.sizes if name not in SIZES]:
        parser.error(f"no size {unknown[0]}: there are {', '.join(SIZES)}")
    return args


def main() -> None:
    args = arguments()
    found = where(args.device, args.threads)
    print_header(found)
    results: dict[str, Figures] = {}
    for name in args.trl:
        for size in args.sizes:
            try:
                result = measure(WAYS[name], size, args)
            except WorkerFailed as error:
                sys.exit(str(error))
            results.setdefault(name, {})[size] = result
            print_table(f"{size}, TRL {name}", result)
    if args.json:
        print_json(found, results)


if __name__ == "__main__":
    main()
