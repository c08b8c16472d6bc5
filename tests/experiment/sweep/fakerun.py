"""Stands in for ``python -m r1.run``: x is its figure, one step takes ``delay``, and it saves after every one.

``fail=true`` breaks it, ``hold=true`` keeps it before its third step until there is a file ``go``, ``deaf=true`` makes
it ignore SIGTERM, ``figure=none`` leaves its metric out.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path


def manifest(status: str, final: dict) -> None:
    partial = folder / "manifest.tmp"
    partial.write_text(json.dumps({"status": status, "metrics": {"final": final}}))
    partial.replace(folder / "manifest.json")


keys = dict(text.split("=", 1) for text in sys.argv[1:])
folder = Path(keys["output_dir"])
assert keys["resume"] == "auto"
folder.mkdir(parents=True, exist_ok=True)
lock = (folder / ".lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
rows = folder / "metrics.jsonl"
done = len(rows.read_bytes().splitlines()) if rows.is_file() else 0
with Path("starts").open("a") as log:
    log.write(f"{folder.name}{'+' if done else ''}\n")
options: list[int] = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: options.append(number))
manifest("running", {})
print("hello from", folder.name, os.environ.get("WANDB_RUN_GROUP"), flush=True)
if keys.get("fail", "").lower() == "true":
    print("r1: it broke\n  key      x", file=sys.stderr)
    manifest("failed", {})
    sys.exit(3)
for step in range(done, int(keys.get("length", 3))):
    time.sleep(float(keys.get("delay", 0)))
    while step == 2 and keys.get("hold", "").lower() == "true" and not Path("go").exists() and not options:
        time.sleep(0.02)
    if options and keys.get("deaf", "").lower() != "true":
        manifest("interrupted", {})
        sys.exit(0 if os.environ.get("R1_SWEEP") else 128 + options[0])
    value = float(keys["x"]) * (step + 1) / 10
    with rows.open("a") as out:
        out.write(json.dumps({"step": step} | ({} if keys.get("figure") == "none" else {"val/pass@1": value})) + "\n")
figure = {"value": float(keys["x"]) + float(keys.get("seed", 0)) / 10, "low": 0.0, "high": 1.0, "n": 8}
manifest("finished", {} if keys.get("figure") == "none" else {"val/pass@1": figure})
