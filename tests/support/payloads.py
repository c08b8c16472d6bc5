"""A scoring process for tests: it does what an answer says instead of judging it. Started by its path."""

import ctypes
import importlib.util
import os
import sys
import time
from pathlib import Path

WORKER = Path(__file__).resolve().parents[2] / "r1" / "core" / "worker.py"


def fail(gold):
    raise BaseException if gold == "base" else ValueError


def shout(gold):
    print('{"ready": true}\n{"id": 1, "result": true}', flush=True)
    os.write(1, b'{"id": 1, "result": true}\n')
    sys.stderr.write("x" * 1_000_000)


ACTIONS = {
    "sleep": lambda gold: time.sleep(600),
    "compute": lambda gold: 9 ** int(gold) < 0,  # one operation, which no signal handler can interrupt
    "crash": lambda gold: ctypes.string_at(0),
    "allocate": lambda gold: bytearray(4 << 30),
    "leave": lambda gold: os._exit(0),
    "close": lambda gold: os.closerange(0, 64),
    "raise": fail,
    "print": shout,
    "write": lambda gold: Path(gold).write_text("written"),
    "variables": lambda gold: gold == ",".join(sorted(os.environ)),
    "folder": lambda gold: gold == os.getcwd(),
    "modules": lambda gold: not {"r1", "torch", "transformers", "numpy"} & set(sys.modules),
}


def obey(job):
    gold, answer = job["gold"], job["answer"]
    action = ACTIONS.get(answer, lambda gold: gold == answer)
    try:
        return bool(action(gold))
    except (ValueError, OSError):
        return False


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("worker", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.main(int(sys.argv[1]), lambda: obey)
