"""The scoring process: ``{"gold": text, "answer": text, "rules": {}}`` in, whether they are the same answer out.

Started by its path (r1/data/verifier/pool.py) with an empty environment; of r1 it imports the relation alone. Answers
are parsed, never run as code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the folder of r1, started by its path

from r1.core.worker import Handler, main

WARM_UP = (  # mpmath computes its constants at their first use
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{1+\sqrt{5}}{2}", "x=0.5"),
    (r"\sin\pi", r"\ln 2"),
)


def math_judge() -> Handler:
    """The relation "same answer"; an answer that its parser cannot read is a wrong one."""
    from r1.data.verifier.relation import Rules, same_answer

    def judge(job: dict[str, Any]) -> bool:
        try:
            return same_answer(job["gold"], job["answer"], Rules(**job["rules"]))
        except MemoryError:
            raise
        except Exception:
            return False

    for gold, answer in WARM_UP:
        judge({"gold": gold, "answer": answer, "rules": {"rel_tol": 0.0, "units": "optional", "brackets": "optional"}})
    return judge


if __name__ == "__main__":
    main(int(sys.argv[1]), math_judge)
