"""Tokens per second, efficiency and communication of one run on 1, 2 and 4 processes of this machine.

    python benchmarks/scaling.py [--stages sft,grpo] [--strategies ddp,fsdp] [--processes 1,2,4] [--size 1M|6M]
                                 [--steps 24] [--json]

Each row is a real ``python -m r1.run`` with one thread per process, in a network namespace of its own (``unshare`` of
util-linux, ``ip`` of iproute2), where nothing but the run uses the network: the bytes that its loopback device has sent
are what the processes have told each other, with TCP's headers. Time and bytes are the slope between the third step and
the last, which leaves out the start; loading, validation and checkpoints lie outside.

How to read it: ``speed-up`` is against the first row of a stage; with fewer cores than processes it cannot exceed the
number of cores, and ``efficiency`` is the speed-up over the lower of both. ``model sizes`` is the communication in
units of the model's own bytes, beside what the ring algorithms need in theory: an all-reduce sends 2 (n - 1) model
sizes over all links together, an all-gather or a reduce-scatter n - 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import print_header, where
from watch import environment, watched
from workloads import SIZES, save_model, save_texts

ROWS, FIRST = 64, 3  # per step; the step from which on is measured
KNOBS = ["threads=1", "trainer.accelerator=cpu", "val.every=1000000", "val.num_prompts=4", "val.num_samples=1"]
KNOBS += ["val.ks=[1]", "checkpoint_every=1000000", "keep_best=false", "rollout.max_completion_length=64"]
KNOBS += ["data=dataset", "data/template=r1_zero", "data.template.text='{prompt}'", "data.num_val=4", "stage.lr=1e-7"]
REWARD = ["~reward.terms.accuracy", "~reward.terms.format", "extensions=[workloads]"]
REWARD += ["+reward.terms.digits={_target_: workloads.digits, weight: 1.0}"]
STAGES = {
    "sft": ["stage=sft", f"stage.examples_per_step={ROWS}"],
    "grpo": ["stage=grpo", "stage.examples_per_step=8", "stage.group_size=8", *REWARD],
}
Figures = dict[str, Any]


def measure(stage: str, strategy: str, processes: int, steps: int, model: Path, texts: Path) -> Figures:
    """One run: tokens and bytes per second and step."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "run"
        argv = [*STAGES[stage], *KNOBS, f"model.path={model}", f"trainer.max_steps={steps}", f"output_dir={folder}"]
        argv += [f"data.path={texts}", f"stage.micro_batch_size={ROWS // processes}"]
        argv += [f"strategy={strategy}", f"trainer.devices={processes}"] if processes > 1 else []
        own = ["unshare", "--net", *([] if os.getuid() == 0 else ["--map-root-user"])]
        inside = [*own, sys.executable, __file__, "--inside", str(folder), *argv]
        done = subprocess.run(inside, env=environment(threads=1), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{stage} on {processes} processes ({strategy}) failed:\n{done.stderr[-2000:]}")
        samples = json.loads(done.stdout.splitlines()[-1])
        (began, sent), (ended, sent_then) = samples[FIRST - 1], samples[-1]
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows = [row for row in rows if "train/loss" in row]
    tokens = sum(tokens_of(stage, row) for row in rows[FIRST:])
    seconds, measured = ended - began, len(samples) - FIRST
    return {
        "tokens_per_s": tokens / seconds,
        "step_s": seconds / measured,
        "bytes_per_step": (sent_then - sent) / measured,
        "steps": measured,
    }


def tokens_of(stage: str, row: dict[str, float]) -> float:
    """Tokens that were learned from in a step."""
    return row["train/num_tokens"] if stage == "sft" else ROWS * row["train/completion_length"]


def inside(folder: Path, argv: list[str]) -> None:
    """In the namespace: run, and print when each step was seen to end, and what had been sent by then."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print(json.dumps(watched(argv, folder, 1, sent_bytes)))


def sent_bytes() -> int:
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def theory(strategy: str, processes: int, micro_batches: int) -> float:
    """What rings send over all links per step, in model sizes; see docs/scaling.md."""
    n = processes
    return {"ddp": 2.0 * (n - 1), "fsdp": 3.0 * (n - 1) * micro_batches}[strategy] if n > 1 else 0.0


def main() -> None:
    if "--inside" in sys.argv[1:2]:
        inside(Path(sys.argv[2]), sys.argv[3:])
        return
    args = parser().parse_args()
    if lacking := [tool for tool in ("unshare", "ip") if not shutil.which(tool)]:
        sys.exit(f"needs {' and '.join(lacking)} (util-linux, iproute2)")
    found, results = where("cpu", 1), []
    with TemporaryDirectory() as name:
        model = save_model(Path(name) / "model", SIZES[args.size], 1e-12, "float32")
        size = (model / "model.safetensors").stat().st_size
        texts = save_texts(Path(name) / "texts.jsonl", 4096)
        if not args.json:
            print_header(found)
            print(f"\n{args.size}: {size / 1e6:.2f} MB of weights; {ROWS} sequences per step")
        for stage in args.stages.split(","):
            results += measured(stage, args, size, model, texts)
    if args.json:
        print(json.dumps({"rows": results, "model_bytes": size, **found}))


def measured(stage: str, args: argparse.Namespace, size: int, model: Path, texts: Path) -> list[Figures]:
    counts, rows = [int(count) for count in args.processes.split(",")], list[Figures]()
    cases = [("single", n) for n in counts if n == 1]
    cases += [(strategy, n) for strategy in args.strategies.split(",") for n in counts if n > 1]
    for strategy, n in cases:
        row = {"stage": stage, "strategy": strategy, "processes": n}
        row |= measure(stage, strategy, n, args.steps, model, texts)
        speedup = row["tokens_per_s"] / (rows[0] if rows else row)["tokens_per_s"]
        row |= {"speed_up": speedup, "efficiency": speedup / min(n, os.cpu_count() or 1)}
        row |= {"model_sizes": row["bytes_per_step"] / size, "theory": theory(strategy, n, 1)}
        rows.append(row)
        if not args.json:
            show(row)
    return rows


def show(row: Figures) -> None:
    print(
        f"{row['stage']:5} {row['strategy']:7} {row['processes']} processes  {row['tokens_per_s']:8,.0f} tokens/s"
        f"  {row['step_s']:.3f} s/step  speed-up {row['speed_up']:.2f}  efficiency {row['efficiency']:.0%}"
        f"  {row['bytes_per_step'] / 1e6:7.2f} MB/step = {row['model_sizes']:.2f} models (ring: {row['theory']:g})",
        flush=True,
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--stages", default="sft,grpo")
    made.add_argument("--strategies", default="ddp,fsdp")
    made.add_argument("--processes", default="1,2,4")
    made.add_argument("--size", default="1M", choices=["1M", "6M"])
    made.add_argument("--steps", type=int, default=24)
    made.add_argument("--json", action="store_true")
    return made


if __name__ == "__main__":
    main()
