"""Programs that are right, with their tests: 20 tasks, each drawn several times."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Case = tuple[str, str, str]  # name, program, tests as a row's answer


def correct_programs(each: int) -> list[Case]:
    return [make(f"{name} {i}", random.Random(f"{name}/{i}")) for name, make in TASKS.items() for i in range(each)]


def stdin(program: str, solve: Callable[[list[int]], str]) -> Callable[[str, random.Random], Case]:
    """A task that reads a line with the count and a line with the numbers."""

    def make(name: str, rng: random.Random) -> Case:
        numbers = [[rng.randint(-99, 99) for _ in range(rng.randint(1, 8))] for _ in range(4)]
        inputs = [f"{len(n)}\n{' '.join(map(str, n))}\n" for n in numbers]
        return name, program, json.dumps({"inputs": inputs, "outputs": [solve(n) for n in numbers]})

    return make


def call(program: str, solve: Callable[[list[int], int], Any]) -> Callable[[str, random.Random], Case]:
    """A function of a list and a number."""

    def make(name: str, rng: random.Random) -> Case:
        inputs = [[[rng.randint(-99, 99) for _ in range(rng.randint(1, 8))], rng.randint(1, 9)] for _ in range(4)]
        outputs = [solve(*args) for args in inputs]
        return name, program, json.dumps({"fn_name": "solve", "inputs": inputs, "outputs": outputs})

    return make


READ = "n = int(input())\na = list(map(int, input().split()))\n"
TASKS: dict[str, Callable[[str, random.Random], Case]] = {
    "sum": stdin(READ + "print(sum(a))", lambda a: f"{sum(a)}\n"),
    "no line break": stdin(READ + "print(sum(a), end='')", lambda a: f"{sum(a)}"),
    "space at the end": stdin(READ + "print(*sorted(a), end=' \\n\\n')", lambda a: " ".join(map(str, sorted(a)))),
    "a line each": stdin(READ + "for x in a: print(x * x)", lambda a: "\n".join(str(x * x) for x in a) + "\n"),
    "carriage returns": stdin(READ + "print('\\r\\n'.join(map(str, a)))", lambda a: "\n".join(map(str, a))),
    "mean": stdin(READ + "print(sum(a) / n)", lambda a: f"{sum(a) / len(a):.9f}"),
    "rounded": stdin(READ + "print('%.10f' % (max(a) / 7))", lambda a: repr(max(a) / 7)),
    "exponent": stdin(READ + "print('%e' % (sum(a) * 1e9))", lambda a: f"{sum(a) * 1e9:.1f}"),
    "main": stdin(
        f"def main():\n {READ.replace(chr(10), chr(10) + ' ')}print(max(a))\nif __name__ == '__main__':\n main()",
        lambda a: str(max(a)),
    ),
    "stdin at once": stdin("import sys\nd = sys.stdin.read().split()\nprint(len(d) - 1)", lambda a: str(len(a))),
    "bytes": stdin(
        "import sys\nd = sys.stdin.buffer.readlines()\nsys.stdout.buffer.write(d[1].strip()[::-1])",
        lambda a: " ".join(map(str, a))[::-1],
    ),
    "descriptor": stdin("import os\nprint(os.read(0, 999).decode().split()[0])", lambda a: str(len(a))),
    "exit": stdin(READ + "print(min(a))\nexit()", lambda a: str(min(a))),
    "thread": stdin(
        "import threading, sys\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
        "def main():\n input()\n print(len(input().split()))\nt = threading.Thread(target=main); t.start(); t.join()",
        lambda a: str(len(a)),
    ),
    "no imports": stdin(READ + "print(sum(Counter(a).values()))", lambda a: str(len(a))),
    "function": call("def solve(a, k):\n return sum(a) * k", lambda a, k: sum(a) * k),
    "class": call(
        "class Solution:\n def solve(self, a: List[int], k: int) -> List[int]:\n  print(k)\n  return sorted(a)[:k]",
        lambda a, k: sorted(a)[:k],
    ),
    "tuples": call("def solve(a, k):\n return tuple((x, k) for x in a)", lambda a, k: [[x, k] for x in a]),
    "floats": call("def solve(a, k):\n return sum(x / k for x in a)", lambda a, k: sum(a) / k + 1e-9),
    "text and more": call("def solve(a, k):\n return {'ä': [None, True, k]}", lambda a, k: {"ä": [None, True, k]}),
}  # fmt: skip
