"""Apply each mutant to a copy and run the tests of its part: ``python tests/mutants/run.py [TEXT...]``.

First the part's quick tests (tests/quick.txt), then, for a mutant that survives, all of its tests. TEXT selects
mutants by a part of their file's name or of their reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
QUICK = [Path(line) for line in (ROOT / "tests" / "quick.txt").read_text().split()]
SKIPPED = shutil.ignore_patterns(".*", "__pycache__", "outputs", "benchmarks", "docs")
TIMEOUT_S = 900  # a mutant that makes the tests hang is noticed, too


def part_tests(mutant: Mutant) -> list[Path]:
    """Folders and files of tests/ that cover a mutant."""
    package = Path(mutant.file).parts[1]
    return [Path("tests") / path for path in (package, *mutant.also)]


def quick_tests(mutant: Mutant) -> list[Path]:
    parts = part_tests(mutant)
    return [file for file in QUICK if any(file.is_relative_to(part) or part.is_relative_to(file) for part in parts)]


def is_killed(copy: Path, tests: list[Path]) -> bool:
    """Whether a test fails; no tests notice nothing."""
    if not tests:
        return False
    flags = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        os.environ.get("MUTANT_WORKERS", "2"),
        "--dist",
        "loadfile",
        "-m",
        "not long",
    ]
    env = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *flags, *map(str, tests)]
    try:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in (0, 1, 2):
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return done.returncode != 0


def stage_that_kills(copy: Path, mutant: Mutant) -> str:
    """``quick``, ``suite`` or ``survived``."""
    file = copy / mutant.file
    original = file.read_text()
    file.write_text(original.replace(mutant.old, mutant.new))
    try:
        if is_killed(copy, quick_tests(mutant)):
            return "quick"
        return "suite" if is_killed(copy, part_tests(mutant)) else "survived"
    finally:
        file.write_text(original)


def main() -> None:
    selected = [m for m in MUTANTS if not sys.argv[1:] or any(t in m.file + m.reason for t in sys.argv[1:])]
    results: list[str] = []
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=SKIPPED)
        for mutant in selected:
            results.append(stage_that_kills(copy, mutant))
            print(f"{results[-1]:9} {mutant.file}: {mutant.reason}", flush=True)
    quick, suite = results.count("quick"), results.count("suite")
    print(f"{len(selected)} mutants: {quick} killed by make quick, {quick + suite} by the suite")
    sys.exit("survived" in results)


if __name__ == "__main__":
    main()
