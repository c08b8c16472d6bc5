"""A pool of worker processes in a forked process."""

from __future__ import annotations

import os
from pathlib import Path

from r1.core.worker_pool import WorkerPool

ECHO = """
import json, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    if line.strip():
        message = json.loads(line)
        print(json.dumps({"id": message["id"], "result": message["job"]}), flush=True)
"""


def test_pool_works_in_the_child_of_a_fork(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    pool = WorkerPool(1, str(tmp_path / "echo.py"), name="echo", code=1)
    assert pool.run({"from": "parent"}, 10) == {"from": "parent"}
    if (child := os.fork()) == 0:
        try:
            os._exit(0 if pool.run({"from": "child"}, 10) == {"from": "child"} else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.run({"again": "parent"}, 10) == {"again": "parent"}
    pool.close()
