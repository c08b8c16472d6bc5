"""What minibatches per rollout do to the updates of sweeps/minibatches.yaml, as it is kept in sweeps/minibatches.md.

    python benchmarks/minibatch_effects.py outputs/sweeps/minibatches

Means over seeds with 95 % intervals (t) of the last val/pass@1 and of train/entropy over the last quarter of the
steps; then the differences that the questions are about, paired by seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from r1.core.runs import read_run
from r1.core.statistics import Estimate, mean_over_seeds

UPDATES = ("dapo", "clip_higher", "cispo", "grpo", "gspo")
PAIRS = (("clip_higher", "dapo"), ("cispo", "dapo"), ("gspo", "grpo"))
SPLITS = (1, 4, 16)
Result = tuple[float, float, float]  # pass@1, entropy in nats, share of clipped tokens


def results(folder: Path) -> Iterator[tuple[tuple[str, int, int], Result]]:
    """((update, S, seed), result) of each finished run."""
    for file in folder.rglob("manifest.json"):
        run = read_run(str(file.parent))
        updates = [text.partition("update/")[2].strip("'\"") for text in run.manifest["overrides"] if "update/" in text]
        if run.manifest["status"] != "finished" or not updates:
            continue
        steps = [row for row in run.metrics if "train/entropy" in row]
        accuracy = [row["val/pass@1"] for row in run.metrics if "val/pass@1" in row][-1]
        entropy = fmean(row["train/entropy"] for row in steps[-len(steps) // 4 :])
        clipped = fmean(row["train/clip_frac"] for row in steps)
        yield (updates[0], run.config["stage"]["steps_per_rollout"], run.config["seed"]), (accuracy, entropy, clipped)


def text(estimate: Estimate, sign: str = "") -> str:
    interval = f" ({estimate.low:{sign}.3f} to {estimate.high:{sign}.3f})" if estimate.low is not None else ""
    return f"{estimate.value:{sign}.3f}{interval}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    found = dict(results(parser.parse_args().folder))
    print("| update | S | seeds | val/pass@1 | entropy, nats | clipped |\n|---|---|---|---|---|---|")
    for update in UPDATES:
        for split in SPLITS:
            runs = [found[update, split, seed] for seed in range(5) if (update, split, seed) in found]
            if runs:
                accuracy, entropy, clipped = zip(*runs, strict=True)
                cells = (text(mean_over_seeds(accuracy)), text(mean_over_seeds(entropy)), f"{fmean(clipped):.1%}")
                print(f"| {update} | {split} | {len(runs)} | {' | '.join(cells)} |")
    print("\n| difference | S | pairs | val/pass@1 | entropy, nats |\n|---|---|---|---|---|")
    for update, base in PAIRS:
        for split in SPLITS:
            both = [s for s in range(5) if {(update, split, s), (base, split, s)} <= found.keys()]
            if len(both) > 1:
                pairs = [(found[update, split, seed], found[base, split, seed]) for seed in both]
                cells = (text(mean_over_seeds([a[i] - b[i] for a, b in pairs]), "+") for i in (0, 1))
                print(f"| {update} - {base} | {split} | {len(both)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
