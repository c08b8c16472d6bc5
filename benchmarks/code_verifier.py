"""How many programs ``data/verifier=code`` judges in a second, each with four tests, in the sandbox.

    python -m benchmarks.code_verifier

200 right programs (tests/support/correct_programs.py) on all workers, three times; the best is printed.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from correct_programs import correct_programs

from r1.data.verifier.code import NUM_WORKERS, Code


def main() -> None:
    cases = correct_programs(each=10)
    programs, rows = [source for _, source, _ in cases], [{"answer": tests} for _, _, tests in cases]
    rates = []
    for _ in range(3):  # a verifier of its own each time: it remembers its verdicts
        code = Code(allow_execution=True, sandbox="bwrap", partial_credit=False, seconds=60.0, memory_mb=1024)
        code.check()
        start = time.perf_counter()
        verdicts = code.verify_batch(programs, rows)
        rates.append(len(programs) / (time.perf_counter() - start))
        assert all(verdicts)
    load = os.getloadavg()[0]
    print(
        f"{max(rates):.1f} programs a second, {NUM_WORKERS} workers on {os.cpu_count()} cores (load before {load:.1f})"
    )


if __name__ == "__main__":
    main()
