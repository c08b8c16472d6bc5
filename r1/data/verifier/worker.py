"""The scoring process: a line ``{"id": 1, "gold": text, "answers": [text]}`` in, ``{"id": 1, "equal": bool}`` out.

Started by its path (r1/data/verifier/pool.py) with an empty environment; it imports math-verify and nothing of r1.
After the imports it forks, and the fork compares. A fork that is killed at its time limit is replaced in milliseconds.
Each fork first sends ``{"ready": true}``. Both processes die with the trainer, use 2 GiB at most, cannot write files or
core dumps and gain no privileges. Reading files and opening sockets is not forbidden: answers are parsed, never run as
code.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import re
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, BinaryIO

Judge = Callable[[str, list[str]], bool]
"""``judge(gold, answers)``: are all answers equal to gold?"""

MAX_BYTES = 2 << 30
CACHED = 4096  # texts: the gold answer of a group is read once
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?")
MIN_DIFFERENCE = 1e-6  # relative to the larger side; evalf is accurate to 1e-15

# A polynomial with numbers as exponents and no bracket that could hold an argument, f(x): there x^2 and {x}^2 are
# one thing, and the second is read ten times faster. Without e, i and I, which are numbers.
_LETTER, _EXPONENT = "[a-df-hj-zA-DF-HJ-Z]", r"\^(?:[0-9]|\{[0-9]+\})"
POLYNOMIAL = re.compile(
    rf"(?:[0-9.+\-=<> ()]|\)\^[0-9](?![0-9])|\\frac\{{|\}}\{{|\}}(?! *[\^_])"
    rf"|{_LETTER}{_EXPONENT}(?! *[0-9\^_({{])|{_LETTER}(?! *[\^_({{a-zA-Z]))+"
)
BARE_POWER = re.compile(r"([a-zA-Z])(?=\^)")
WARM_UP = (  # the parser imports, compiles and learns at its first use
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{1+\sqrt{5}}{2}", "x=0.5"),
    ("(1,-2)", r"\{1,2,3\}"),
)


def supervise(work: Callable[[], None]) -> None:
    """Run ``work`` in a fork, and in a new one whenever that is killed, until it returns. SIGUSR1 kills the fork.

    A fork has all imports and the parser's caches of this process, so it needs no warm-up.
    """
    supervisor, fork = os.getpid(), 0

    def end(*_: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(fork, signal.SIGKILL)

    while True:
        fork = os.fork()
        if fork == 0:
            kill_on_parent_death(supervisor)
            work()
            os._exit(0)
        signal.signal(signal.SIGUSR1, end)
        if os.waitpid(fork, 0)[1] == 0:
            return


def serve(jobs: BinaryIO, replies: BinaryIO, judge: Judge) -> None:
    """Answer jobs until the pipe closes. Out of memory ends the process: its state cannot be trusted any more."""
    replies.write(b'{"ready": true}\n')
    for line in jobs:
        job = json.loads(line)
        try:
            equal = judge(job["gold"], job["answers"])
        except MemoryError:
            os._exit(1)
        except Exception:  # an answer that the parser cannot read is a wrong answer
            equal = False
        replies.write(json.dumps({"id": job["id"], "equal": equal}).encode() + b"\n")


def private_pipe() -> BinaryIO:
    """The pipe to the trainer; standard output becomes /dev/null, so no library can print into the protocol."""
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return pipe


def sandbox() -> None:
    """Limits on this process and its children, as far as the system has them."""
    # AS: a huge number ends in MemoryError, not in swapping. FSIZE and CORE 0: a write fails, a crash leaves no file.
    for limit, most in (("AS", MAX_BYTES), ("FSIZE", 0), ("CORE", 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def kill_on_parent_death(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the call, so no signal will come
        os._exit(0)


def math_judge() -> Judge:
    """math-verify's verdict, without its timeouts and its search for an answer in prose."""
    from math_verify import grader, verify

    read, slow_equal = reader(), grader.sympy_symbolic_eq
    grader.sympy_symbolic_eq = lambda a, b: not differ(a, b) and slow_equal(a, b)

    def judge(gold: str, answers: list[str]) -> bool:
        sides = [read(text) for text in (gold, *answers)]
        if any(side is None for side in sides):
            return False
        return all(verify(sides[0], side, timeout_seconds=None) for side in sides[1:])

    return judge


def reader() -> Callable[[str], Any]:
    """``read(text)``: the expression that math-verify reads in a text; None if it cannot.

    The parser tries SLL prediction first: it finds the tree that ANTLR's full LL prediction finds, or fails. Tuples,
    intervals and polynomials then take a tenth of the time.
    """
    from antlr4.atn.PredictionMode import PredictionMode  # type: ignore[import-untyped]
    from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy, convert_to_pct
    from latex2sympy2_extended.math_normalization import normalize_latex
    from math_verify import LatexExtractionConfig
    from math_verify.parser import get_last_eq, should_treat_as_complex

    config = LatexExtractionConfig().normalization_config

    class Parser(_Latex2Sympy):  # type: ignore[misc]
        prediction = PredictionMode.LL

        def create_parser(self, text: str) -> Any:
            parser = super().create_parser(text)
            parser._interp.predictionMode = self.prediction
            return parser

        def parse_number(self, text: str) -> Any:
            plain = text.replace(",", "")
            return number(plain) if NUMBER.fullmatch(plain) else super().parse_number(text)

    class FastParser(Parser):
        prediction = PredictionMode.SLL

    def expression(latex: str) -> Any:
        for parser, text in ((FastParser, normalise_polynomial(latex)), (Parser, latex), (Parser, get_last_eq(latex))):
            with contextlib.suppress(Exception):
                return parser(is_real=not should_treat_as_complex(text)).parse(text)
        return None

    @lru_cache(maxsize=CACHED)
    def read(text: str) -> Any:
        number = re.sub(r"\s*\\?%$", "", text)  # math-verify reads a percent sign only after the expression
        parsed = expression(normalize_latex(number, config=config))
        return parsed if parsed is None or number == text else convert_to_pct(parsed)

    return read


def normalise_polynomial(latex: str) -> str:
    """``x^2`` as ``{x}^2`` in a polynomial, which the parser reads ten times faster."""
    complete = latex.count("\\frac{") == latex.count("}{")  # not \frac{1}x^2, where the braces would be an argument
    return BARE_POWER.sub(r"{\1}", latex) if complete and POLYNOMIAL.fullmatch(latex) else latex


def number(text: str) -> Any:
    """A plain number as sympy reads it, without sympy's ``eval`` of Python source."""
    import sympy

    return sympy.Integer(int(text)) if text.isdigit() else sympy.Float(text)


def differ(a: Any, b: Any) -> bool:
    """Whether two expressions certainly differ, because they do at one point: saves a slow ``simplify``."""
    import sympy

    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
        return False
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    point = {symbol: sympy.Rational(2 * n + 5, 7) for n, symbol in enumerate(symbols)}
    left, right, apart = (side.subs(point).evalf() for side in (a, b, a - b))
    if not (left.is_finite and right.is_finite and apart.is_number and apart.is_finite):
        return False
    return bool(abs(complex(apart)) > MIN_DIFFERENCE * max(1.0, abs(complex(left)), abs(complex(right))))


def main(parent: int, make_judge: Callable[[], Judge] = math_judge) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR2):  # a cluster sends them to every process; only the trainer reacts
        signal.signal(number, signal.SIG_IGN)
    replies = private_pipe()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    judge = make_judge()
    for gold, answer in WARM_UP:
        judge(gold, [answer])
    gc.freeze()  # the collector skips these objects, so a fork does not copy their pages
    sandbox()
    kill_on_parent_death(parent)
    supervise(lambda: serve(sys.stdin.buffer, replies, judge))


if __name__ == "__main__":
    main(int(sys.argv[1]))
