"""Verifiable instructions: does a response do all that its prompt asks of its form? IFEval's protocol.

The answer is the full response, after the thinking. Strict: as it is. Loose: also without emphasis (``*``), its first
line or its last line, which models add around the response.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError

from r1.data.base import Row, Verifier
from r1.data.completion import text_after_thinking
from r1.data.verifier.instruction_kinds import KINDS
from r1.data.verifier.prose import SCRIPT_OF

Check = Callable[[str], bool]
Arguments = dict[str, Any] | None


class Instructions(Verifier):
    """Whether a response follows each of ``row["instruction_id_list"]`` with its arguments, ``row["kwargs"]``.

    Args:
        mode: ``strict`` or ``loose``.
        partial_credit: the score is the share of instructions that are followed.
    """

    def __init__(self, *, mode: Literal["strict", "loose"], partial_credit: bool) -> None:
        self.variants = VARIANTS[mode]
        self.partial_credit = partial_credit

    def __call__(self, answer: str, row: Row) -> bool:
        return bool(followed := self.followed(answer, row)) and all(followed)

    def followed(self, response: str, row: Row) -> list[bool]:
        """Whether each instruction of the row is followed; none where the row's cannot be read."""
        try:
            checks = instructions(row.get("instruction_id_list"), row.get("kwargs"))
        except ValueError:
            return []
        texts = [text for text in self.variants(response) if text.strip()]
        return [any(map(check, texts)) for check in checks]

    def score_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[float]:
        shares = [self.followed(answer, row) for answer, row in zip(answers, rows, strict=True)]
        if self.partial_credit:
            return [sum(followed) / max(1, len(followed)) for followed in shares]
        return [float(bool(followed) and all(followed)) for followed in shares]

    def read(self, completion: str, row: Row) -> str | None:
        """What follows the thinking, without answer tags around it."""
        text = text_after_thinking(completion).strip()
        return text.removeprefix("<answer>").removesuffix("</answer>").strip() or None

    def same(self, answers: Sequence[str], others: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        """Two responses that follow the same instructions are not one answer."""
        return [answer == other for answer, other in zip(answers, others, strict=True)]

    def reads(self, rows: Sequence[Row]) -> list[bool]:
        return [not instruction_error(row.get("instruction_id_list"), row.get("kwargs")) for row in rows]


def loose_variants(response: str) -> list[str]:
    """The response, without its first line, its last, and both; each with and without asterisks."""
    lines = response.split("\n")
    texts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return texts + [text.replace("*", "") for text in texts]


VARIANTS: dict[str, Callable[[str], list[str]]] = {"strict": lambda response: [response], "loose": loose_variants}


def instruction_error(kinds: Any, arguments: Any) -> str:
    """The reason why a row's instructions cannot be checked; empty if they can."""
    try:
        instructions(kinds, arguments)
    except ValueError as error:
        return str(error)
    return ""


def instructions(kinds: Any, arguments: Any) -> list[Check]:
    """The checks of a row's instructions.

    Raises:
        ValueError: a kind is unknown, or an argument is not of its type.
    """
    if not (isinstance(kinds, list) and kinds and isinstance(arguments, list) and len(kinds) == len(arguments)):
        raise ValueError("`instruction_id_list` and `kwargs` are lists of equal length, not empty")
    return [instruction(kind, values) for kind, values in zip(kinds, arguments, strict=True)]


def instruction(kind: Any, arguments: Arguments) -> Check:
    """One check; the arguments of other kinds, which Parquet fills in with null, are left out."""
    if kind not in KINDS:
        raise ValueError(f"no kind of instruction: {kind!r}; the kinds are {', '.join(KINDS)}")
    values = {}
    for name, adapter in parameters(kind).items():
        value = (arguments or {}).get(name)
        try:
            values[name] = adapter.validate_python(value, strict=not isinstance(value, float))
        except ValidationError:
            raise ValueError(f"{kind}: `{name}` is {value!r}") from None
    if values.get("language", "en") not in SCRIPT_OF:
        raise ValueError(f"{kind}: no language {values['language']!r}; there are {', '.join(SCRIPT_OF)}")
    return partial(KINDS[kind], **values)


@cache
def parameters(kind: str) -> dict[str, TypeAdapter[Any]]:
    """The arguments of a kind, with their types."""
    hints, names = get_type_hints(KINDS[kind]), inspect.signature(KINDS[kind]).parameters
    return {name: TypeAdapter(hints[name]) for name in names if name != "text"}
