"""The code verifier: runs the program of a completion on the row's tests, in a sandbox.

A program runs in a process of its own (code_worker.py) inside bubblewrap: no network, no files but the interpreter's,
no other processes, and bounded time, memory and output. The expected outputs stay outside. See docs/code.md.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import textwrap
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt, Interval

from r1.core.errors import REWARD, UserError
from r1.core.worker_pool import WorkerDied, WorkerPool
from r1.data.base import Row
from r1.data.completion import text_after_thinking
from r1.data.verifier import code_worker
from r1.data.verifier.code_tests import CodeTests, read_tests
from r1.data.verifier.counting import CountingVerifier

NUM_WORKERS = min(4, os.cpu_count() or 1)
CACHE_SIZE = 16_384  # scores
MAX_CHARS = 1 << 20  # of a program
LANGUAGES = ("python", "python3", "py")
PROBE_SECONDS = 60.0  # on the slowest machine
PROBE = CodeTests(None, ["2 3\n"], ["5"])
PROBE_PROGRAM = """
import os, threading
for refused in (os.fork, lambda: open("/probe", "w"), lambda: os.listdir("/home"), lambda: os.listdir("/proc")):
    try:
        refused()
    except OSError:
        continue
    raise SystemExit("not confined")
thread = threading.Thread(target=lambda: print(sum(map(int, input().split()))))
thread.start()
"""

Score = float | str  # the share of tests passed, or one of Code.reasons


@dataclass(frozen=True)
class Submission:
    """One program and its tests."""

    source: str
    tests: CodeTests

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(repr(self).encode(errors="surrogatepass")).digest()


class Code(CountingVerifier):
    """Whether a program passes all tests of ``row["answer"]``, in one of the formats of code_tests.py.

    Args:
        allow_execution: run what a model has written; without, every use is an error.
        sandbox: ``bwrap``: bubblewrap; ``none``: limits on the process alone, which reaches network and files.
        partial_credit: the score is the share of tests passed; false: 1 if all are, else 0.
        seconds: time limit of a program, over all its tests.
        memory_mb: address space of a program.
    """

    reasons: ClassVar[tuple[str, ...]] = ("timeouts", "died", "gold")

    def __init__(
        self,
        *,
        allow_execution: bool,
        sandbox: Literal["bwrap", "none"],
        partial_credit: bool,
        seconds: Annotated[float, Gt(0)],
        memory_mb: Annotated[int, Interval(ge=256, le=2048)],
    ) -> None:
        super().__init__()
        self.allow_execution, self.sandbox, self.partial_credit = allow_execution, sandbox, partial_credit
        self.seconds, self.memory_mb = seconds, memory_mb
        self.is_checked = False
        self._scores: OrderedDict[bytes, Score] = OrderedDict()

    def check(self) -> None:
        """Raises: UserError: running programs is not allowed, or there is no working sandbox."""
        if self.is_checked:
            return
        if not self.allow_execution:
            raise UserError(
                "this verifier runs programs that a model has written",
                key=".allow_execution",
                value=False,
                expected="true, to allow it",
                hint="docs/code.md says what they can and cannot do",
                code=REWARD,
            )
        if self.sandbox == "bwrap" and (error := self._sandbox_error()):
            raise UserError(
                f"there is no working sandbox to run programs in: {error}",
                key=".sandbox",
                value=self.sandbox,
                expected="bubblewrap with user namespaces, or as root; Linux 5.14 on x86_64 or aarch64",
                hint="apt-get install bubblewrap; none runs them with your network and your files in reach",
                code=REWARD,
            )
        self.is_checked = True

    def _sandbox_error(self) -> str:
        """Why a program cannot be run in the sandbox, or is not confined there; empty: it works."""
        if not shutil.which("bwrap"):
            return "bwrap is not installed"
        try:
            reply = self._run(Submission(PROBE_PROGRAM, PROBE), PROBE_SECONDS)
        except (TimeoutError, WorkerDied) as error:
            return type(error).__name__
        return "" if all(reply["passed"]) else reply["error"] or "a program is not confined"

    def read(self, completion: str, row: Row) -> str | None:
        """The text of the one answer tag as it is written, else what follows the thinking if it has a block of code."""
        if "<answer>" in completion or "</answer>" in completion:
            inside = completion.partition("<answer>")[2].partition("</answer>")[0]
            return inside if super().read(completion, row) is not None else None
        text = text_after_thinking(completion)
        return text if blocks(text) else None

    def __call__(self, answer: str, row: Row) -> bool:
        return self.verify_batch([answer], [row])[0]

    def verify_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        return [score == 1.0 for score in self.score_batch(answers, rows)]

    def score_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[float]:
        """Each of B programs, in parallel.

        Raises:
            UserError: see ``check``.
        """
        if answers:
            self.check()
        submissions = [self._submission(answer, row) for answer, row in zip(answers, rows, strict=True)]
        digests = [one.digest if one else b"" for one in submissions]
        with self._lock:
            scores = {digest: self._scores[digest] for digest in digests if digest in self._scores}
        fresh = {digest: one for digest, one in zip(digests, submissions, strict=True) if one and digest not in scores}
        with ThreadPoolExecutor(NUM_WORKERS) as threads:
            scores |= zip(fresh, threads.map(self._score, fresh.values()), strict=True)
        outcomes = [scores[digest] if one else "gold" for digest, one in zip(digests, submissions, strict=True)]
        self.count(outcomes)
        with self._lock:
            self._scores |= {digest: scores[digest] for digest in fresh if scores[digest] != "died"}
            while len(self._scores) > CACHE_SIZE:
                self._scores.popitem(last=False)
        return [0.0 if isinstance(outcome, str) else outcome for outcome in outcomes]

    def _submission(self, answer: str, row: Row) -> Submission | None:
        """None: the row's tests cannot be read."""
        tests = read_tests(str(row["answer"]), row.get("metadata"))
        return Submission(program(answer), tests) if tests else None

    def _score(self, submission: Submission) -> Score:
        if len(submission.source) > MAX_CHARS:
            return 0.0
        try:
            reply = self._run(submission, self.seconds)
        except TimeoutError:
            return "timeouts"
        except WorkerDied:
            return "died"
        passed = reply["passed"]
        share = sum(passed) / len(passed) if self.partial_credit else float(all(passed))
        return "timeouts" if reply["timeout"] and not share else share

    def _run(self, submission: Submission, seconds: float) -> dict[str, Any]:
        """The worker's reply. Raises: TimeoutError, WorkerDied: there is none."""
        bwrap = shutil.which("bwrap") if self.sandbox == "bwrap" else None
        limits = {"seconds": seconds, "memory_mb": self.memory_mb, "run_all": self.partial_credit}
        return dict(POOL.run(asdict(submission) | limits | {"bwrap": bwrap}, 2 * seconds))

    def same(self, answers: Sequence[str], others: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        """Programs are one vote if their text is the same: whether two do the same cannot be decided."""
        return [program(answer) == program(other) for answer, other in zip(answers, others, strict=True)]

    def reads(self, rows: Sequence[Row]) -> list[bool]:
        return [read_tests(str(row["answer"]), row.get("metadata")) is not None for row in rows]


def program(answer: str) -> str:
    """The last block of Python in an answer, else the last block without a language, else all of it."""
    sources = dict(blocks(answer))  # the last one of each
    return textwrap.dedent(sources.get("python", sources.get("", answer)))


def blocks(text: str) -> list[tuple[str, str]]:
    """(``python`` or nothing, source) of each closed fence of Markdown that is not of another language."""
    closed: list[tuple[str, str]] = []
    language: str | None = None
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        fence = line.strip()
        if language is None and fence.startswith("```"):
            language, lines = fence[3:].strip().lower(), []
        elif language is not None and fence == "```":
            if language in ("", *LANGUAGES):
                closed.append(("python" if language else "", "".join(lines)))
            language = None
        else:
            lines.append(line)
    return closed


POOL = WorkerPool(NUM_WORKERS, code_worker.__file__, name="code", code=REWARD)
"""The processes that all code verifiers of this process share."""
