"""The process that runs the package reasoning-gym: it makes a task's problems, and scores answers to them.

Started by its path (r1/data/verifier/reasoning_gym.py) with an empty environment, so that no problem depends on the
order of a set. A job is one of

    {}                                                      -> the tasks' names
    {"task": name, "seed": n, "options": {}, "index": n, "count": n}         -> [[index, question, answer], ...]
    {"task": name, "seed": n, "options": {}, "index": n, "answer": text}     -> the score

and a reply that is a text is an error. Answers are never run as code, which the package does in ten tasks: see
``PATCHED``.
"""

from __future__ import annotations

import ast
import operator
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the folder of r1, started by its path

from r1.core.worker import Handler, main

PATCHED = {  # modules of the package that evaluate an answer: the name that they call
    "algorithmic.binary_matrix": "eval",
    "algorithmic.spiral_matrix": "eval",
    "algorithmic.string_insertion": "eval",
    "games.n_queens": "eval",
    "games.countdown": "parse_expr",
    "games.puzzle24": "parse_expr",
    "algebra.simple_integration": "sympy.parse_expr",
    "algebra.intermediate_integration": "sympy.parse_expr",
    "algebra.polynomial_multiplication": "sp.parse_expr",
}
EXCLUDED = ("composite",)  # a mixture of tasks, which data.tasks is already
SIZE = 10_000  # problems of a task; most make any number, a few make so many at once
MAX_EXPONENT = 1000  # of a number, in an answer that is an expression
MAX_CHARS = 10_000  # of an answer
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
FUNCTIONS = "sin cos tan cot sec csc asin acos atan sinh cosh tanh asinh acosh atanh exp log ln sqrt Abs erf Si Ci"
CONSTANTS = ("pi", "E", "I", "oo")


def expression(text: str, local_dict: dict[str, Any] | None = None) -> Any:
    """An expression of numbers, names, + - * / ** and ``FUNCTIONS``, as sympy's ``parse_expr`` reads it.

    That one runs the text as Python.

    Raises:
        ValueError, SyntaxError: anything else is in the text.
    """
    import sympy

    def convert(node: ast.AST) -> Any:
        match node:
            case ast.Constant(int() as number) if not isinstance(number, bool):
                return sympy.Integer(number)
            case ast.Constant(float()):
                return sympy.Float(ast.get_source_segment(text.strip(), node))
            case ast.Name(name):
                names = local_dict or {}
                return names.get(name) or (getattr(sympy, name) if name in CONSTANTS else sympy.Symbol(name))
            case ast.UnaryOp(sign, operand) if type(sign) in OPERATORS:
                return OPERATORS[type(sign)](convert(operand))
            case ast.BinOp(left, sign, right) if type(sign) in OPERATORS:
                a, b = convert(left), convert(right)
                if isinstance(sign, ast.Pow) and b.is_number and abs(b) > MAX_EXPONENT:
                    raise ValueError("too large")
                return OPERATORS[type(sign)](a, b)
            case ast.Call(ast.Name(name), args, []) if name in FUNCTIONS.split():
                return getattr(sympy, name)(*map(convert, args))
        raise ValueError(f"not read: {type(node).__name__}")

    return convert(ast.parse(text.strip(), mode="eval").body)


def patch() -> None:
    """Replace what evaluates answers by parsers: of literals, and of expressions."""
    for module, name in PATCHED.items():
        owner, _, attribute = name.rpartition(".")
        target: Any = import_module(f"reasoning_gym.{module}")
        if owner:
            target = vars(target)[owner]
        setattr(target, attribute, ast.literal_eval if attribute == "eval" else expression)


def gym_handler() -> Handler:
    from reasoning_gym.factory import DATASETS, create_dataset

    patch()

    @lru_cache(maxsize=256)
    def dataset(task: str, seed: int, options: str) -> Any:
        return create_dataset(task, seed=seed, size=SIZE, **ast.literal_eval(options))

    @lru_cache(maxsize=4096)
    def entry(task: str, seed: int, options: str, index: int) -> dict[str, Any]:
        return dict(dataset(task, seed, options)[index])

    def handle(job: dict[str, Any]) -> Any:
        if not job:
            return sorted(DATASETS.keys() - {*EXCLUDED})
        key = job["task"], job["seed"], repr(job["options"])
        if "count" in job:
            try:
                problems = [entry(*key, job["index"] + i) for i in range(job["count"])]
            except Exception as error:  # the package checks options with assert, and some tasks raise later
                return f"{type(error).__name__}: {error}"
            texts = [(i, problem["question"], gold(problem)) for i, problem in enumerate(problems, job["index"])]
            return [text for text in texts if not reads_expressions(dataset(*key)) or is_expression(text[2])]
        return score(dataset(*key), job["answer"], deepcopy(entry(*key, job["index"])))

    return handle


def gold(problem: dict[str, Any]) -> str:
    """A right answer; where a task accepts several, an example if it has one."""
    answer = problem["answer"]
    return str(problem["metadata"].get("example_answer", "(several)") if answer is None else answer) or "(empty)"


def reads_expressions(dataset: Any) -> bool:
    name: str = PATCHED.get(type(dataset).__module__.removeprefix("reasoning_gym."), "")
    return name.endswith("parse_expr")


def is_expression(text: str) -> bool:
    """Whether an answer is read. An integral that is not worked out is not: ``Integral(f, x)`` is always right."""
    try:
        return expression(text) is not None
    except (ValueError, SyntaxError):
        return False


def score(dataset: Any, answer: str, entry: dict[str, Any]) -> float:
    """The package's score; 0 where its scorer cannot read the answer."""
    try:
        return float(dataset.score_answer(answer, entry)) if len(answer) <= MAX_CHARS else 0.0
    except MemoryError:
        raise
    except Exception:
        return 0.0


if __name__ == "__main__":
    main(int(sys.argv[1]), gym_handler)
