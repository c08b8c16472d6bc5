"""The tiny world's targets: default GRPO, SFT and distillation from the shipped base, several seeds each.

    python benchmarks/tiny_targets.py [--seeds 0 1 2 3 4] [--stages grpo sft distill] [--figure FILE] [--json]

Every run is the plain command a user would type, in a process of its own. Per stage: pass@1 before and after, mean
completion length, wall time; the mean over seeds with its 95 % interval (Student's t), and whether the target holds for
every seed. ``--figure`` draws pass@1 and completion length over the GRPO steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMANDS = {
    "grpo": ["stage=grpo", "reward=math"],
    "sft": ["stage=sft"],
    "distill": ["stage=distill"],
}
TARGET_PASS, TARGET_GROWTH, TARGET_WALL_S = 0.85, 1.5, 300.0
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # two-sided, by number of seeds


def run(stage: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run's manifest, taken from disk if the run is there already."""
    output = folder / f"{stage}_{seed}"
    if not (output / "manifest.json").is_file():
        command = [sys.executable, "-m", "r1.run", *COMMANDS[stage], f"seed={seed}", f"output_dir={output}"]
        subprocess.run(command, check=True, capture_output=True)
    manifest: dict[str, Any] = json.loads((output / "manifest.json").read_text())
    return manifest


def figures(manifest: dict[str, Any]) -> dict[str, float]:
    start, final = manifest["metrics"]["start"], manifest["metrics"]["final"]
    return {
        "base pass@1": start["val/pass@1"]["value"],
        "pass@1": final["val/pass@1"]["value"],
        "length growth": final["val/completion_length"]["value"] / start["val/completion_length"]["value"],
        "wall s": manifest["wall_s"],
    }


def summary(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    half = T95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.3f} +- {half:.3f}  (worst {min(values):.3f}, best {max(values):.3f})"


def holds(stage: str, row: dict[str, float]) -> bool:
    grown = row["length growth"] >= TARGET_GROWTH or stage != "grpo"
    return row["pass@1"] >= TARGET_PASS and row["wall s"] <= TARGET_WALL_S and grown


def draw(folders: list[Path], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "r1", "font.size": 9, "axes.spines.top": False})
    pyplot.rcParams["axes.spines.right"] = False
    _, axes = pyplot.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    names = {"val/pass@1": "held-out pass@1", "val/completion_length": "mean completion length (tokens)"}
    for axis, (name, label) in zip(axes, names.items(), strict=True):
        for folder in folders:
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
            points = [(row["step"], row[name]) for row in rows if name in row]
            axis.plot(*zip(*points, strict=True), color="#2b6cb0", alpha=0.6, linewidth=1.4)
        axis.set(xlabel="optimizer step", title=label, ylim=(0, None))
    pyplot.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--stages", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--folder", type=Path, default=Path("outputs/tiny_targets"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for stage in args.stages:
        rows = [figures(run(stage, seed, args.folder)) for seed in args.seeds]
        print(f"\n{stage}, seeds {args.seeds}: target {'holds' if all(holds(stage, r) for r in rows) else 'MISSED'}")
        for name in rows[0]:
            print(f"  {name:14} {summary([row[name] for row in rows])}")
        results[stage] = dict(zip(map(str, args.seeds), rows, strict=True))
    if args.figure:
        draw([args.folder / f"grpo_{seed}" for seed in args.seeds], args.figure)
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
