"""The code verifier: formats of tests, outputs that are equal, and programs right, wrong and hostile."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from correct_programs import correct_programs
from hostile_programs import HOSTILE

from r1.core.errors import UserError
from r1.core.paths import ROOT
from r1.data.base import Row, score_completions
from r1.data.verifier import code_worker
from r1.data.verifier.code import PROBE_PROGRAM, Code, program
from r1.data.verifier.code_tests import CodeTests, passes, read_tests, same_text, same_value

SECONDS = 1.0
SUM = {"inputs": ["2 3\n"], "outputs": ["5\n"]}
CALL = {"inputs": [[2, 3]], "outputs": [5], "fn_name": "solve"}
needs_sandbox = pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap (bwrap) is not installed")


def verifier(**knobs: Any) -> Code:
    defaults = {"sandbox": "bwrap", "partial_credit": False, "seconds": 20.0, "memory_mb": 1024}
    return Code(**({"allow_execution": True} | defaults | knobs))


def row(tests: Any) -> Row:
    return {"prompt": "q", "answer": json.dumps(tests)}


# ---- formats ----


@pytest.mark.parametrize(
    ("answer", "metadata", "tests"),
    [
        ('{"inputs": ["1\\n"], "outputs": ["2"]}', None, CodeTests(None, ["1\n"], ["2"])),
        ('{"inputs": [["1", "2"]], "outputs": [["3", "4"]]}', None, CodeTests(None, ["1\n2"], ["3\n4"])),
        (
            '{"inputs": [[[1], {"1": 2}]], "outputs": [[3]], "fn_name": "f"}',
            None,
            CodeTests("f", [[[1], {1: 2}]], [[3]]),
        ),
        (
            '{"inputs": ["[1]\\n\\"a\\""], "outputs": ["[3]"], "fn_name": "f"}',
            None,
            CodeTests("f", [[[1], "a"]], [[3]]),
        ),
        ('[{"input": "1", "output": "2", "testtype": "stdin"}]', None, CodeTests(None, ["1"], ["2"])),
        (
            '[{"input": "1\\n2", "output": "3", "testtype": "functional", "metadata": {"func_name": "f"}}]',
            None,
            CodeTests("f", [[1, 2]], [3]),
        ),
        ('[{"input": "1", "output": "3", "testtype": "functional"}]', '{"func_name": "g"}', CodeTests("g", [[1]], [3])),
    ],
)
def test_read_tests_reads_the_public_formats(answer: str, metadata: str | None, tests: CodeTests) -> None:
    assert read_tests(answer, metadata) == tests


@pytest.mark.parametrize(
    "answer",
    [
        *("5", "text", "null", "{}", "[]", "[1]", '{"inputs": [], "outputs": []}', '{"inputs": ["1"], "outputs": []}'),
        *('{"inputs": "1", "outputs": "2"}', '{"inputs": {"a": 1}, "outputs": {"a": 1}}', "[" * 100_000),
        '[{"input": "1", "output": "2", "testtype": "functional"}]',
        '[{"input": "1", "output": "2"}, {"input": "1", "output": "2", "testtype": "functional", "fn_name": "f"}]',
        '{"inputs": ["not json"], "outputs": ["1"], "fn_name": "f"}',
    ],
)
def test_read_tests_of_another_form_reads_none(answer: str) -> None:
    assert read_tests(answer) is None


# ---- equal outputs ----


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("1 2\n3\n", "1  2 \n\n3", True),
        ("1 2 3", "1\n2\n3", False),
        ("a\tb", "a b", True),
        ("0.5", "5e-1", True),
        ("0.333333333", "0.3333333", True),
        ("0.333333333", "0.3333", False),
        ("1000000.5", "1000001.2", True),  # 7e-7 of it
        ("3", "3.0", True),
        ("1000000007", "1000000007.3", False),
        ("10", "010", False),
        ("YES", "yes", False),
        ("nan", "nan", True),
        ("1.0", "nan", False),
        ("1.0", "1_0", False),
        ("1e999", "1e998", False),
        ("", "\n \n", True),
        ("5", "", False),
        ("1." + "0" * 500, "1.0", False),
    ],
)
def test_same_text_compares_lines_of_words_and_numbers(expected: str, output: str, same: bool) -> None:
    assert same_text(expected, output) is same


@pytest.mark.parametrize(
    ("expected", "result", "same"),
    [
        ([1, [2.0]], [1, [2.0000001]], True),
        (2, 2.0000001, False),
        (2.0, 2, True),
        (True, 1, False),
        (1, True, False),
        (1.0, True, True),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1, 2], [2, 1], False),
        (None, None, True),
        (None, 0, False),
        ("1", 1, False),
    ],
)
def test_same_value_compares_json_values(expected: Any, result: Any, same: bool) -> None:
    assert same_value(expected, result) is same


def test_result_wrapped_in_a_list_as_in_apps_passes() -> None:
    tests = CodeTests("f", [[1], [1]], [[5], [[5]]])
    assert [passes(tests, 0, "5"), passes(tests, 0, "[5]"), passes(tests, 1, "[5]"), passes(tests, 0, "6")] == [
        *(True, True, True, False)
    ]
    assert not passes(tests, 0, "[" * 100_000)


# ---- the program in a completion ----

BLOCK = "```python\nprint(1)\n```"


@pytest.mark.parametrize(
    ("completion", "source"),
    [
        (f"<think>{BLOCK}</think>\n```py\nx = 2\n```\nDone.", "x = 2\n"),
        ("<think>a</think><answer>\nprint('ﬁ')\n</answer>", "\nprint('ﬁ')\n"),
        (f"<answer>Here: {BLOCK}</answer>", "Here: ```python\nprint(1)\n```"),  # a fence stands on a line of its own
        (f"First\n{BLOCK}\nthen\n  ```Python3\n  y = 1\n  ```\nit prints\n```\n1\n```", "y = 1\n"),
        ("```\nz = 1\n```", "z = 1\n"),
        ("```json\n{}\n```\n```\nz = 1\n```", "z = 1\n"),
        ("no code", None),
        ("\\boxed{print(1)}", None),
        (f"<think>{BLOCK}", None),
        ("```python\nprint(1)", None),  # cut off
        (f"<answer>{BLOCK}</answer><answer>{BLOCK}</answer>", None),
    ],
)
def test_program_is_the_last_block_or_the_answer(completion: str, source: str | None) -> None:
    read = verifier().read(completion, {})
    assert (read if read is None else program(read)) == source


# ---- refusals ----


def test_check_without_permission_is_refused() -> None:
    code = verifier(allow_execution=False)
    with pytest.raises(UserError, match="runs programs that a model has written") as caught:
        code.check()
    assert caught.value.key == ".allow_execution"
    with pytest.raises(UserError, match="runs programs that a model has written"):
        code.verify_batch(["print(5)"], [row(SUM)])


def test_check_without_bubblewrap_is_refused_unless_no_sandbox_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="bwrap is not installed") as caught:
        verifier().check()
    assert caught.value.key == ".sandbox"
    assert verifier(sandbox="none").verify_batch(["print(5)", "print(4)"], [row(SUM)] * 2) == [True, False]


def test_check_with_a_sandbox_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho no namespaces here >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    with pytest.raises(UserError, match="no namespaces here"):
        verifier().check()


def test_row_without_tests_is_counted_and_never_run() -> None:
    code = verifier(sandbox="none")
    assert code.verify_batch(["print(5)"], [{"answer": "5"}]) == [False]
    assert code.reads([{"answer": "5"}, row(SUM)]) == [False, True]
    assert code.pop_error_counts() == {"timeouts": 0, "died": 0, "gold": 1}


# ---- programs ----


@needs_sandbox
@pytest.mark.parametrize("each", [1, pytest.param(10, marks=pytest.mark.long)])
def test_correct_programs_pass(each: int) -> None:
    cases = correct_programs(each)
    assert len(cases) == 20 * each
    verdicts = verifier().verify_batch([source for _, source, _ in cases], [{"answer": tests} for _, _, tests in cases])
    assert [name for (name, _, _), passed in zip(cases, verdicts, strict=True) if not passed] == []


@needs_sandbox
def test_hostile_programs_neither_score_nor_outlive_twice_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1_SECRET", "5")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        jobs = [(name, "solve") for name, source in HOSTILE.items() if "solve" in source or "exit" in name]
        jobs += [(name, "print") for name, source in HOSTILE.items() if "solve" not in source]
        code = verifier(seconds=SECONDS, partial_credit=True)
        code.check()

        def judge(job: tuple[str, str]) -> tuple[float, float]:
            start, source = time.perf_counter(), HOSTILE[job[0]].replace("PORT", str(port))
            (score,) = code.score_batch([source], [row(SUM if job[1] == "print" else CALL)])
            return score, time.perf_counter() - start

        with ThreadPoolExecutor(2) as threads:
            results = dict(zip(jobs, threads.map(judge, jobs), strict=True))
    assert {job: score for job, (score, _) in results.items() if score} == {}
    assert {job: seconds for job, (_, seconds) in results.items() if seconds > 2 * SECONDS + 0.5} == {}
    assert len(HOSTILE) >= 30
    assert not Path("/tmp/pwned").exists()
    assert running_sandboxes() == []


def running_sandboxes() -> list[str]:
    """Processes of solutions that are still there, but for a moment in which the kernel ends them."""
    for _ in range(50):
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        left = [line for line in listed.splitlines() if "/python/bin/" in line and str(os.getpid()) not in line]
        if not left:
            return []
        time.sleep(0.1)
    return left


@needs_sandbox
def test_partial_credit_is_the_share_of_tests_passed() -> None:
    tests = row({"inputs": ["1", "2", "3", "4"], "outputs": ["1", "2", "4", "4"]})
    completions = ["```python\nprint(input())\n```", "no code"]
    assert score_completions(verifier(partial_credit=True), completions, [tests] * 2) == [0.75, 0.0]
    assert score_completions(verifier(), completions, [tests] * 2) == [0.0, 0.0]
    assert verifier(partial_credit=True).verify_batch(["print(input())"], [tests]) == [False]


@needs_sandbox
def test_tests_after_the_time_limit_have_failed_and_the_answer_is_counted() -> None:
    sleeps = "import time\nn = int(input())\ntime.sleep(99 if n == 3 else 0)\nprint(n)"
    tests = row({"inputs": ["1", "2", "3", "4"], "outputs": ["1", "2", "3", "4"]})
    code = verifier(partial_credit=True, seconds=2.0)
    assert code.score_batch([sleeps], [tests]) == [0.5]
    assert verifier(seconds=2.0).score_batch([sleeps], [tests]) == [0.0]
    forever = row({"inputs": ["3"], "outputs": ["3"]})
    assert code.score_batch([sleeps], [forever]) == [0.0]
    assert code.score_batch([sleeps], [forever]) == [0.0]  # remembered, and counted again
    assert code.pop_error_counts() == {"timeouts": 2, "died": 0, "gold": 0}


@needs_sandbox
def test_each_test_runs_in_a_process_of_its_own() -> None:
    counts = "import sys\nsys.seen = getattr(sys, 'seen', 0) + 1\nprint(sys.seen)"
    assert verifier().verify_batch([counts], [row({"inputs": ["", ""], "outputs": ["1", "1"]})]) == [True]


@needs_sandbox
def test_long_inputs_and_outputs_arrive_whole() -> None:
    text = "ä" + "0123456789 " * 100_000
    assert verifier().verify_batch(["print(input())"], [row({"inputs": [text], "outputs": [text]})]) == [True]
    ignored = row({"inputs": [text], "outputs": ["1"]})
    assert verifier().verify_batch(["print(1)"], [ignored]) == [True]


@needs_sandbox
def test_programs_are_one_vote_if_their_text_is_the_same() -> None:
    assert verifier().same([BLOCK, "a"], ["print(1)\n", "b"], [row(SUM)] * 2) == [True, False]


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_sandbox_of_an_ordinary_user_confines_as_well(tmp_path: Path) -> None:
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("no interpreter that another user can read")
    job = {"tests": {"fn_name": None, "inputs": ["2 3"], "outputs": ["5"]}, "seconds": 20.0, "memory_mb": 1024}
    code = (
        f"import sys, json; sys.path.insert(0, {str(Path(code_worker.__file__).parents[3])!r}); sys.argv = ['x']\n"
        "from r1.data.verifier.code_worker import run; print(json.dumps(run(json.load(sys.stdin))))"
    )
    done = subprocess.run(
        [python, "-B", "-c", code],
        input=json.dumps(job | {"source": PROBE_PROGRAM, "bwrap": shutil.which("bwrap"), "run_all": False}),
        user=1234,
        group=1234,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"another user cannot read r1: {done.stderr[-200:]}")
    assert json.loads(done.stdout) == {"passed": [True], "timeout": False, "error": ""}, sys.version


def test_rows_of_the_docs_are_read() -> None:
    page = (ROOT / "docs" / "code.md").read_text()
    answers = [
        line.split("| `")[-1].removesuffix("` |") for line in page.splitlines() if re.match(r"\| .*`[\[{]", line)
    ]
    assert len(answers) == 6
    expected = [CodeTests(None, ["2 3\n"], ["5\n"]), CodeTests("add", [[2, 3]], [5])]
    assert [read_tests(answer) for answer in answers] == expected * 3
