"""The scoring process: a line ``{"id": 1, "gold": text, "answers": [text]}`` in, ``{"id": 1, "equal": bool}`` out.

Started by its path (r1/data/verifier/pool.py) with an empty environment; it imports math-verify and nothing of r1.
Once that is done it forks, and the fork answers: killed for taking too long, it is replaced in milliseconds. A fork
says ``{"ready": true}`` first. Both die with the trainer, hold 2 GiB at most, write neither file nor core and gain no
privilege. It is no sandbox, reading files and opening sockets are not forbidden: answers are parsed and never run as
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
FAR = 1e-6  # relative to the larger side; evalf is good to 1e-15

# A polynomial with numbers as exponents and no bracket that could hold an argument, f(x): there x^2 and {x}^2 are
# one thing, and the second is read ten times faster. Without e, i and I, which are numbers.
_LETTER, _EXPONENT = "[a-df-hj-zA-DF-HJ-Z]", r"\^(?:[0-9]|\{[0-9]+\})"
POLYNOMIAL = re.compile(
    rf"(?:[0-9.+\-=<> ()]|\)\^[0-9](?![0-9])|\\frac\{{|\}}\{{|\}}(?! *[\^_])"
    rf"|{_LETTER}{_EXPONENT}(?! *[0-9\^_({{])|{_LETTER}(?! *[\^_({{a-zA-Z]))+"
)
BARE_POWER = re.compile(r"([a-zA-Z])(?=\^)")
WARM_UP = (  # what is imported, compiled or learnt by the parser at its first use
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{1+\sqrt{5}}{2}", "x=0.5"),
    ("(1,-2)", r"\{1,2,3\}"),
)


def supervise(work: Callable[[], None]) -> None:
    """Keep one forked process at work until it ends by itself. Its successor is warm at once; SIGUSR1 ends it."""
    this, at_work = os.getpid(), 0

    def end(*_: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(at_work, signal.SIGKILL)

    while True:
        at_work = os.fork()
        if at_work == 0:
            die_with(this)
            work()
            os._exit(0)
        signal.signal(signal.SIGUSR1, end)
        if os.waitpid(at_work, 0)[1] == 0:
            return


def serve(jobs: BinaryIO, replies: BinaryIO, judge: Judge) -> None:
    """Answer jobs until the pipe closes. Out of memory ends the process: what is left of it cannot be trusted."""
    replies.write(b'{"ready": true}\n')
    for line in jobs:
        job = json.loads(line)
        try:
            equal = judge(job["gold"], job["answers"])
        except MemoryError:
            os._exit(1)
        except Exception:  # whatever an answer does to the parser, it is only a wrong answer
            equal = False
        replies.write(json.dumps({"id": job["id"], "equal": equal}).encode() + b"\n")


def private_pipe() -> BinaryIO:
    """The way back to the trainer, out of reach of anything that prints."""
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return pipe


def sandbox() -> None:
    """Limits on this process and its children, as far as the system has them."""
    for limit, most in (("AS", MAX_BYTES), ("FSIZE", 0), ("CORE", 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def die_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the signal was asked for
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
    """``read(text)``: what a text writes, as math-verify reads it; None if it cannot.

    The parser is asked for SLL prediction first: it finds the tree that ANTLR's full LL prediction finds, or fails.
    Tuples, intervals and polynomials take a tenth of the time.
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
        whole = re.sub(r"\s*\\?%$", "", text)  # math-verify reads a percent sign only behind the expression
        found = expression(normalize_latex(whole, config=config))
        return found if found is None or whole == text else convert_to_pct(found)

    return read


def normalise_polynomial(latex: str) -> str:
    whole = latex.count("\\frac{") == latex.count("}{")  # not \frac{1}x^2, where the braces would be an argument's
    return BARE_POWER.sub(r"{\1}", latex) if whole and POLYNOMIAL.fullmatch(latex) else latex


def number(text: str) -> Any:
    """What sympy makes of a plain number, without its detour over Python source and ``eval``."""
    import sympy

    return sympy.Integer(int(text)) if text.isdigit() else sympy.Float(text)


def differ(a: Any, b: Any) -> bool:
    """Whether two expressions are certainly not equal: at one point they are far apart. Spares a ``simplify``."""
    import sympy

    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
        return False
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    point = {symbol: sympy.Rational(2 * n + 5, 7) for n, symbol in enumerate(symbols)}
    left, right, apart = (side.subs(point).evalf() for side in (a, b, a - b))
    if not (left.is_finite and right.is_finite and apart.is_number and apart.is_finite):
        return False
    return bool(abs(complex(apart)) > FAR * max(1.0, abs(complex(left)), abs(complex(right))))


def main(parent: int, make_judge: Callable[[], Judge] = math_judge) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR2):  # a cluster sends them to every process, and means the trainer
        signal.signal(number, signal.SIG_IGN)
    replies = private_pipe()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    judge = make_judge()
    for gold, answer in WARM_UP:
        judge(gold, [answer])
    gc.freeze()  # what lives as long as the process need not be looked at again, nor copied by a fork
    sandbox()
    die_with(parent)
    supervise(lambda: serve(sys.stdin.buffer, replies, judge))


if __name__ == "__main__":
    main(int(sys.argv[1]))
