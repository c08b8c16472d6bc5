"""Rollouts of a model with adapters against those of the model itself: tokens per CPU second of the embedded engine.

    python benchmarks/lora_rollouts.py [--model r1:tiny] [--rows 32] [--tokens 32] [--rounds 12] [--threads 1]

Three sides in one process, in turn: full fine-tuning's policy, one with adapters of rank 16 on all linear layers, and
the same with its adapters computed token by token, which is how they are trained. ``--rows`` completions of exactly
``--tokens``, four per prompt. Prints each side's median over the rounds, without the first, and its share of the
first side's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from report import print_header, where

from r1.model.loading import Model
from r1.model.lora import Lora
from r1.rollout.base import NEUTRAL
from r1.rollout.transformers import Transformers

GROUP = 4  # completions per prompt


@contextmanager
def unfolded(model: Any, precision: object) -> Iterator[Any]:  # noqa: ARG001 - as folded_adapters has it
    yield model


def adapted(path: str) -> Any:
    """The model with adapters that are not zero."""
    options: dict[str, Any] = {"use_rslora": False, "dropout": 0.0, "target_modules": "all-linear"}
    model = Lora(r=16, alpha=32.0, modules_to_save=None, **options).wrap(Model.pretrained(path, "float32").load(0))
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.01)
    return model


def tokens_per_s(model: Any, args: argparse.Namespace) -> float:
    """One rollout batch."""
    engine = Transformers(**NEUTRAL, max_completion_length=args.tokens, batch_size=args.rows, async_steps=0)
    engine.update(model, 0)
    prompts = [list(range(5, 25 + 3 * p)) for p in range(args.rows // GROUP)]
    seeds = [[GROUP * p + g for g in range(GROUP)] for p in range(len(prompts))]
    started = time.process_time()
    engine.generate(prompts, seeds, set())
    return len(prompts) * GROUP * args.tokens / (time.process_time() - started)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="r1:tiny")
    for name, default in {"rows": 32, "tokens": 32, "rounds": 12, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    print_header(where("cpu", args.threads))
    full, lora = Model.pretrained(args.model, "float32").load(0), adapted(args.model)
    token_by_token = patch("r1.rollout.transformers.folded_adapters", unfolded)
    sides = {"full": (full, nullcontext()), "adapters": (lora, nullcontext()), "unfolded": (lora, token_by_token)}
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds + 1):
        for name, (model, context) in sides.items():
            with context:
                found[name].append(tokens_per_s(model, args))
    medians = {name: statistics.median(speeds[1:]) for name, speeds in found.items()}
    for name, median in medians.items():
        print(f"  {name:10}{median:>10,.0f} tokens/s  {median / medians['full']:.2f}")


if __name__ == "__main__":
    main()
