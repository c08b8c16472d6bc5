"""How fast the maths verifier is, and what hostile answers cost it.

    python benchmarks/scorer.py [--pairs 4000] [--seconds 2.0] [--json]

- cold: distinct pairs of gold and answer, nothing remembered, one scoring process: it and its caller take turns on
  one core. Half of the answers are right, half of those in another spelling. Then the same for the pairs alone that
  the cheap layers leave to the scoring process.
- training: 256 questions x 8 answers, 2 epochs, one scoring process; most pairs come back.
- batch: 56 ordinary answers and 8 that pass the guard and hang, in one batch, with all scoring processes.

The mix of answers is meant to be that of MATH: six in ten are plain numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from r1.data.verifier import math, notation, pool
from r1.data.verifier.relation import Rules

TARGET = 1000.0
HOSTILE = [rf"\Gamma(\pi)+7^{{3000}}+{n}" for n in range(8)]
RULES = Rules(rel_tol=1e-6, units="optional", brackets="optional")
Make = Callable[[random.Random], tuple[str, str, str]]
"""An answer, the same answer in another spelling, and a wrong one."""


def integer(r: random.Random) -> tuple[str, str, str]:
    n = r.randint(-999, 99999)
    return f"{n}", f"{n}.0" if n % 3 else f"x={n}", f"{n + r.choice((-1, 1, 2, 10))}"


def decimal(r: random.Random) -> tuple[str, str, str]:
    n = r.randint(1, 9999)
    return f"{n / 100:.2f}", rf"\frac{{{n}}}{{100}}", f"{n / 100 + 0.5:.2f}"


def fraction(r: random.Random) -> tuple[str, str, str]:
    a, b, c = r.randint(1, 99), r.randint(2, 40), r.randint(2, 5)
    return rf"\frac{{{a}}}{{{b}}}", rf"{a * c}/{b * c}", rf"\frac{{{a + 1}}}{{{b}}}"


def root(r: random.Random) -> tuple[str, str, str]:
    a, b = r.randint(2, 30), r.choice((2, 3, 5, 6, 7, 10, 11, 13))
    return rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"{a + 1}\sqrt{{{b}}}"


def golden(r: random.Random) -> tuple[str, str, str]:
    a, b, c = r.randint(1, 20), r.choice((2, 3, 5, 7)), r.randint(2, 9)
    return (
        rf"\frac{{{a}+\sqrt{{{b}}}}}{{{c}}}",
        rf"\frac{{\sqrt{{{b}}}+{a}}}{{{c}}}",
        rf"\frac{{{a}-\sqrt{{{b}}}}}{{{c}}}",
    )


def pi(r: random.Random) -> tuple[str, str, str]:
    a, b = r.randint(1, 60), r.randint(2, 12)
    return rf"\frac{{{a}\pi}}{{{b}}}", rf"\frac{{{a}}}{{{b}}}\pi", rf"\frac{{{a + 1}\pi}}{{{b}}}"


def percent(r: random.Random) -> tuple[str, str, str]:
    n = r.randint(1, 99)
    return rf"{n}\%", f"{n}%", rf"{n + 1}\%"


def pair(r: random.Random) -> tuple[str, str, str]:
    a, b = r.randint(-99, 99), r.randint(-99, 99)
    return f"({a},{b})", rf"\left({a}, {b}\right)", f"({a},{b + 1})"


def interval(r: random.Random) -> tuple[str, str, str]:
    a, b = r.randint(-99, 0), r.randint(1, 99)
    return f"[{a},{b})", rf"\left[{a}, {b}\right)", f"[{a},{b}]"


def collection(r: random.Random) -> tuple[str, str, str]:
    a, b, c = r.sample(range(-40, 40), 3)
    return rf"\{{{a},{b},{c}\}}", rf"\{{{c}, {a}, {b}\}}", rf"\{{{a},{b},{c + 100}\}}"


def polynomial(r: random.Random) -> tuple[str, str, str]:
    a, b = r.randint(2, 30), r.randint(2, 99)
    return f"x^2+{a}x+{b}", f"{b}+{a}x+x^{{2}}", f"x^2+{a + 1}x+{b}"


def equation(r: random.Random) -> tuple[str, str, str]:
    a, b = r.randint(2, 30), r.randint(2, 99)
    return f"y={a}x+{b}", f"{a}x+{b}", f"{a}x-{b}"


def text(r: random.Random) -> tuple[str, str, str]:
    a, b = r.sample(("even", "odd", "Monday", "blue", "(A)", "(B)", "(C)", "neither", "parabola", "ellipse"), 2)
    return rf"\text{{{a}}}", a, rf"\text{{{b}}}"


def matrix(r: random.Random) -> tuple[str, str, str]:
    a, b, c, d = (r.randint(-20, 20) for _ in range(4))
    same, other = rf"{a} & {b} \\ {c} & {d}", rf"{a} & {b} \\ {c} & {d + 1}"
    kinds = [(same, "p"), (same, "b"), (other, "p")]
    left, middle, right = (rf"\begin{{{kind}matrix}} {inner} \end{{{kind}matrix}}" for inner, kind in kinds)
    return left, middle, right


MIX: dict[Make, float] = {
    integer: 50,
    decimal: 4,
    fraction: 15,
    root: 6,
    golden: 2,
    pi: 4,
    percent: 2,
    pair: 4,
    interval: 3,
    collection: 2,
    polynomial: 4,
    equation: 1,
    text: 2.5,
    matrix: 0.5,
}


Pairs = list[tuple[str, str, bool]]
"""Gold, answer, and whether it is right."""


def question(r: random.Random) -> tuple[str, str, str]:
    return r.choices(list(MIX), list(MIX.values()))[0](r)


def distinct(count: int) -> Pairs:
    r, found = random.Random(0), {}
    while len(found) < count:
        gold, other, wrong = question(r)
        answer = r.choice((gold, other, wrong, wrong))
        found[gold, answer] = answer != wrong
    return [(gold, answer, right) for (gold, answer), right in found.items()]


def groups(count: int, size: int) -> Pairs:
    r, pairs = random.Random(1), []
    for gold, other, wrong in (question(r) for _ in range(count)):
        answers = r.choices((gold, other, wrong), (3, 1, 4), k=size)
        pairs += [(gold, answer, answer != wrong) for answer in answers]
    return pairs


def score(pairs: Pairs, verifier: math.Math, batch: int = 64) -> tuple[float, int]:
    """Wall time, and how many verdicts were not the expected ones."""
    missed, start = 0, time.perf_counter()
    for i in range(0, len(pairs), batch):
        golds, answers, rights = zip(*pairs[i : i + batch], strict=True)
        verdicts = verifier.verify_batch(answers, [{"answer": gold} for gold in golds])
        missed += sum(verdict != right for verdict, right in zip(verdicts, rights, strict=True))
    return time.perf_counter() - start, missed


def forget(num_workers: int) -> float:
    """Start a pool that knows nothing; the seconds until its processes are ready."""
    math.POOL.close()
    math.POOL = pool.Pool(num_workers)
    math._compare_short.cache_clear()
    notation.canonical.cache_clear()
    start = time.perf_counter()
    math.POOL.judge([pool.Job("x", f"x+{n}", RULES) for n in range(8 * num_workers)], 60.0)
    return time.perf_counter() - start


def cpu() -> float:
    """CPU seconds that this process and the scoring processes have used so far (Linux)."""
    supervisors = [child.process.pid for child in math.POOL.children]
    judges = [int(pid) for s in supervisors for pid in Path(f"/proc/{s}/task/{s}/children").read_text().split()]
    ticks = [Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in judges]
    return time.process_time() + sum(map(int, ticks)) / 1e9


def rates(name: str, pairs: Pairs, verifier: math.Math) -> dict[str, float]:
    used = cpu()
    wall, missed = score(pairs, verifier)
    return {
        f"{name}: scorings/s": len(pairs) / wall,
        f"{name}: scorings per CPU second": len(pairs) / (cpu() - used),
        f"{name}: unexpected verdicts": missed,
    }


def measure(pairs: int, seconds: float) -> dict[str, float]:
    verifier = math.Math(**vars(RULES), seconds=seconds)
    found = {"start s": forget(1)}
    cold = distinct(pairs)
    hard = [
        (gold, answer, right)
        for gold, answer, right in cold
        if isinstance(math.compare_exact_first(gold, answer, RULES), pool.Job)
    ]
    found["share that is computed"] = len(hard) / pairs
    math._compare_short.cache_clear()
    notation.canonical.cache_clear()
    found |= rates("cold", cold, verifier)
    forget(1)
    found |= rates("cold, the computed share only", hard, verifier)
    forget(1)
    found |= rates("training", groups(256, 8) * 2, verifier)
    forget(pool.NUM_WORKERS)
    verifier.pop_error_counts()
    batch = distinct(56)
    batch[4:4] = [("42", answer, False) for answer in HOSTILE]
    found["batch of 56 + 8 hostile s"], found["batch: unexpected verdicts"] = score(batch, verifier)
    found["batch: timeouts"] = verifier.pop_error_counts()["timeouts"]
    found["batch again s"], _ = score(batch, verifier)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=2.0, help="the verifier's time limit")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    args = parser.parse_args()
    found = measure(args.pairs, args.seconds)
    for name, figure in found.items():
        print(f"{name:56} {figure:10.2f}" + (f"  target {TARGET:.0f}" if "CPU" in name else ""))
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
