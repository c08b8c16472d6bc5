import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mathverifier import SLOW, comparison, math_verifier

from r1.core.errors import UserError
from r1.data.verifier import math as math_module
from r1.data.verifier import worker
from r1.data.verifier.guard import guard
from r1.data.verifier.pool import Pool

SUPPORT = str(Path(__file__).parents[1] / "support")
PAYLOADS = f"{SUPPORT}/payloads.py"
FINE = comparison("fine", "fine")
verify = math_verifier()


@pytest.fixture
def pool():
    made = Pool(num_workers=2, path=PAYLOADS)
    yield made
    made.close()


def do(action, gold=""):
    return comparison(gold, action)


def judges(child):
    """The forks that answer, of a scoring process."""
    pid = child.process.pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids, seconds=3.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]):
        time.sleep(0.02)
    return not left


# ---- what an answer may do to its process ----


@pytest.mark.parametrize(
    ("job", "outcome"),
    [
        (FINE, "right"),
        (do("other", "gold"), "wrong"),
        (do("sleep"), "timeouts"),
        (do("compute", "999999999"), "timeouts"),
        (do("crash"), "died"),
        (do("allocate"), "died"),
        (do("leave"), "died"),
        (do("close"), "died"),
        (do("raise"), "wrong"),
        (do("raise", "base"), "died"),
        (do("print"), "wrong"),
    ],
)
def test_hostile_job_affects_only_its_own_outcome(pool, job, outcome):
    before, after = [comparison(f"{n}", f"{n}") for n in range(4)], [comparison(f"{n}", f"{n}") for n in range(4, 8)]
    pool.judge([FINE], 60.0)
    start = time.monotonic()
    assert pool.judge([*before, job, *after], 0.5) == ["right"] * 4 + [outcome] + ["right"] * 4
    assert time.monotonic() - start < 3
    assert pool.judge([comparison("healthy", "healthy")], 60.0) == ["right"]


def test_scoring_process_has_no_secrets_and_cannot_write(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    names = ("LC_CTYPE", "OMP_NUM_THREADS", "PYTHONHASHSEED")  # the first is Python's own doing
    here = [do("variables", ",".join(names)), do("folder", "/"), do("modules")]
    assert pool.judge(here, 60.0) == ["right"] * 3
    assert pool.judge([do("write", str(tmp_path / "file"))], 60.0) == ["wrong"]
    assert (tmp_path / "file").read_text() == ""


def test_scoring_process_has_its_limits(pool):
    pool.judge([FINE], 60.0)
    (child,) = pool.children
    (judge,) = judges(child)
    for pid in (judge, child.process.pid):
        limits = {
            line[:26].strip(): line[26:].split()[:2] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
        }
        assert limits["Max address space"] == [str(2 << 30)] * 2
        assert limits["Max file size"] == limits["Max core file size"] == ["0", "0"]
        assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()


def test_worker_imports_the_relation_alone(tmp_path):
    code = f"import runpy, sys; runpy.run_path({worker.__file__!r})['math_judge'](); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert not {"torch", "transformers", "numpy", "sympy"} & {name.split(".")[0] for name in modules}
    of_r1 = {name for name in modules if name.startswith("r1.") and not name.startswith("r1.data.verifier")}
    assert of_r1 == {"r1.core", "r1.core.worker", "r1.data"}


def test_many_timeouts_shorten_the_rest_of_the_batch(pool):
    pool.judge([FINE], 60.0)
    start = time.monotonic()
    jobs = [do("sleep", f"{n}") for n in range(24)]
    assert pool.judge([*jobs, FINE], 0.4) == ["timeouts"] * 24 + ["right"]
    assert time.monotonic() - start < 24 * 0.4 / 2


def test_pool_caches_verdicts_but_not_crashes(pool):
    assert pool.judge([do("sleep"), do("crash")], 0.3) == ["timeouts", "died"]
    start = time.monotonic()
    assert pool.judge([do("sleep")] * 9, 0.3) == ["timeouts"] * 9
    assert time.monotonic() - start < 0.2
    assert list(pool.cache) == [(do("sleep"), 0.3)]


# ---- what may happen to a process ----


@pytest.mark.parametrize("victim", ["judge", "supervisor"])
def test_process_killed_while_idle_is_replaced(pool, victim):
    pool.judge([comparison(f"{n}", f"{n}") for n in range(50)], 60.0)
    for child in list(pool.children):
        pids = judges(child) if victim == "judge" else [child.process.pid]
        os.kill(pids[0], signal.SIGKILL)
    time.sleep(0.1)
    outcomes = pool.judge([comparison(f"-{n}", f"-{n}") for n in range(50)], 60.0)
    assert set(outcomes) <= {"right", "died"}
    assert outcomes.count("died") <= 2


@pytest.mark.parametrize("victim", ["judge", "supervisor"])
def test_process_killed_during_a_job_is_replaced(pool, victim):
    pool.judge([FINE], 60.0)
    found = []
    thread = threading.Thread(target=lambda: found.extend(pool.judge([do("sleep"), comparison("a", "a")], 30.0)))
    thread.start()
    time.sleep(0.5)
    for child in list(pool.children):
        pids = judges(child) if victim == "judge" else [child.process.pid]
        os.kill(pids[0], signal.SIGKILL)
    thread.join(10)
    assert found == ["died", "right"]
    assert (
        pool.judge([comparison("b", "b"), comparison("c", "c")], 60.0).count("died") <= 1
    )  # the other one died in its sleep


SCRIPT = f"""
import sys, time
from pathlib import Path
from r1.data.verifier.pool import Pool, POOL
sys.path.insert(0, {SUPPORT!r})
from mathverifier import comparison
POOL.path = {PAYLOADS!r}
assert POOL.judge([comparison("a", "a"), comparison("b", "b")], 60.0) == ["right", "right"]
pids = [child.process.pid for child in POOL.children]
print(*pids, *[Path(f"/proc/{{pid}}/task/{{pid}}/children").read_text() for pid in pids], flush=True)
"""


def trainer(code):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", SCRIPT + code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_no_process_outlives_a_killed_trainer():
    with trainer("POOL.judge([comparison('9' * 9, 'compute'), comparison('9' * 8, 'compute')], 600.0)") as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        process.kill()
    assert len(pids) >= 2
    assert gone(pids)


def test_interpreter_exit_ends_the_scoring_processes():
    with trainer("") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert gone([int(word) for word in out.split()])


def test_several_threads_share_the_processes(pool):
    found = {}

    def ask(n):
        found[n] = pool.judge([comparison(f"{n}-{i}", f"{n}-{i}") for i in range(20)], 60.0)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: ["right"] * 20 for n in range(4)}
    assert len(pool.children) <= 2


def test_a_program_that_does_not_start_is_a_user_error(tmp_path):
    made = Pool(num_workers=1, path=str(tmp_path / "none.py"))
    with pytest.raises(UserError, match=r"no scoring process starts(.|\n)*none\.py 0"):
        made.judge([FINE], 1.0)
    made.close()


# ---- the verifier on top ----


def test_plain_answers_start_no_process(pool, monkeypatch):
    monkeypatch.setattr(math_module, "POOL", pool)
    answers = ["42", "43", "4.5", r"\frac{1}{2}", "1,042", "9^{9^9}"]
    assert verify.verify_batch(answers, [{"answer": "42"}] * 6) == [True] + [False] * 5
    assert not pool.children


def test_a_hostile_batch_is_bounded_counted_and_harmless():
    hostile = [
        "9" * 1_000_000,
        "(" * 1_000_000,
        "{" * 500_000 + "}" * 500_000,
        "\\frac" * 200_000,
        "9**9**9**9",
        "9^{9^{9}}",
        *(SLOW % n for n in (5, 7)),
    ]
    assert guard(hostile[-1]) is None
    verifier = math_verifier(seconds=0.5)
    verify("x+1", {"answer": "1+x"})
    ordinary = ["0.75", "x^2+1", r"\sqrt{12}", r"2\sqrt{3}"]
    golds = ["42"] * 8 + [r"\frac{3}{4}", "1+x^2", r"2\sqrt{3}", r"\sqrt{3}"]
    start = time.monotonic()
    verdict = verifier.verify_batch([*hostile, *ordinary], [{"answer": gold} for gold in golds])
    assert time.monotonic() - start < 5
    assert verdict == [False] * 8 + [True, True, True, False]
    assert verifier.pop_error_counts() == {"timeouts": 2, "died": 0, "guard": 6, "gold": 0}
    assert verifier.pop_error_counts() == {"timeouts": 0, "died": 0, "guard": 0, "gold": 0}


@settings(max_examples=60)
@given(
    st.text("09xe^*{}()[]!|/=-+, .", max_size=30)
    | st.lists(
        st.sampled_from(["\\frac", "\\sqrt", "\\left(", "\\right)", "{2}", "x", "^", "9", "!", "\\pi", "="])
    ).map("".join)
    | st.text(max_size=20)
)
def test_no_answer_raises_or_hangs(answer):
    start = time.monotonic()
    assert math_verifier(seconds=1.0)(answer, {"answer": "x^2+7"}) in (True, False)
    assert time.monotonic() - start < 5
