"""How long the little things take: composing a config, checking it, importing the peer.

    python benchmarks/startup.py [--runs 5] [--json]

Prints the median of whole-process wall times; each run is a fresh interpreter, the first one is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "--cfg job": (["-m", "r1.run", "--cfg", "job"], 0.5),
    "dry_run=true": (["-m", "r1.run", "stage=grpo", "reward=math", "dry_run=true"], 6.0),
    "import torch": (["-c", "import torch"], None),
}


def wall(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=os.environ)
    return time.perf_counter() - started


def imports_torch() -> bool:
    """Whether ``--cfg job`` loads torch, by the interpreter's own import log."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "r1.run", "--cfg", "job"],
        check=True,
        capture_output=True,
        text=True,
    )
    return any(line.rpartition("|")[2].strip() == "torch" for line in done.stderr.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    args = parser.parse_args()
    results: dict[str, object] = {"--cfg job imports torch": imports_torch()}
    for name, (arguments, limit) in COMMANDS.items():
        times = [wall(arguments) for _ in range(args.runs + 1)][1:]
        results[name] = statistics.median(times)
        target = f"target {limit} s" if limit else ""
        print(f"{name:16} {statistics.median(times):6.2f} s  ({min(times):.2f} to {max(times):.2f})  {target}")
    print(f"--cfg job imports torch: {results['--cfg job imports torch']}")
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
