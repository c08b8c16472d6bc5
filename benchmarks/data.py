"""How long a start takes with many rows, and what memory: the first, which reads the file, and the second.

    python benchmarks/data.py [--rows 1000 10000 100000 1000000] [--chars 900] [--stage sft] [--json]

Each start is a fresh interpreter that takes two steps on the shipped tiny model; the cache is empty before the first.
Prints wall times, and the peak of the anonymous memory (RssAnon) above that of the smallest file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

KNOBS = ["data=dataset", "trainer.max_steps=2", "val.num_prompts=2", "val.num_samples=2"]
KNOBS += ["val.ks=[1,2]", "trainer.accelerator=cpu", "threads=1"]
FILLER = "the quick brown fox jumps over lazy dogs while seven clever wizards boxed daily "


def write_rows(file: Path, count: int, chars: int) -> None:
    """Rows with different questions and a worked answer of ``chars`` characters."""
    filler = (FILLER * (chars // len(FILLER) + 1))[:chars]
    with file.open("w", encoding="utf-8") as out:
        for i in range(count):
            completion = f"<think>{filler}</think>\n<answer>{i + 1}</answer>"
            row = {"prompt": f"{i}+1=?", "answer": str(i + 1), "completion": completion}
            out.write(json.dumps(row) + "\n")


def start(stage: str, file: Path, cache: Path) -> tuple[float, float]:
    """(seconds, GB of anonymous memory at most) of a run."""
    batch = [] if stage == "eval" else ["stage.micro_batch_size=8"]
    command = [sys.executable, "-m", "r1.run", f"stage={stage}", *KNOBS, *batch, f"data.path={file}"]
    begin, peak = time.perf_counter(), 0
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [*command, f"output_dir={folder}/run"],
            env=os.environ | {"HF_DATASETS_CACHE": str(cache)},
            stdout=subprocess.DEVNULL,
        ) as process,
    ):
        while process.poll() is None:
            peak = max(peak, anonymous_kb(process.pid))
            time.sleep(0.05)
    if process.returncode:
        sys.exit(process.returncode)
    return time.perf_counter() - begin, peak / 1e6


def anonymous_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def measure(stage: str, counts: Sequence[int], chars: int) -> list[dict[str, float]]:
    results: list[dict[str, float]] = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            file, cache = Path(folder, "rows.jsonl"), Path(folder, "cache")
            write_rows(file, count, chars)
            starts = [start(stage, file, cache) for _ in range(2)]
            result = {"rows": count, "file_gb": file.stat().st_size / 1e9}
        for name, (seconds, memory) in zip(("first", "second"), starts, strict=True):
            result |= {f"{name}_s": seconds, f"{name}_anonymous_gb": memory}
        results.append(result)
        base = results[0]["second_anonymous_gb"]
        print(
            f"{count:>9,} rows, {result['file_gb']:.2f} GB: first start {result['first_s']:.1f} s, "
            f"second {result['second_s']:.1f} s; anonymous memory {result['first_anonymous_gb'] - base:+.2f} GB and "
            f"{result['second_anonymous_gb'] - base:+.2f} GB",
            flush=True,
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--chars", type=int, default=900, help="of a worked answer")
    parser.add_argument("--stage", default="sft")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    args = parser.parse_args()
    results = measure(args.stage, args.rows, args.chars)
    if args.json:
        print(json.dumps({"rows": results}))


if __name__ == "__main__":
    main()
