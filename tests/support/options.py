"""Every option of a config group, built from its YAML file: a new one is tested without being listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra.utils import instantiate
from hypothesis import strategies as st
from omegaconf import OmegaConf

from r1.core.paths import CONF

NOT_PARAMETERS = ("weight", "defaults")  # keys that the config's other parts read


def option_names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_"))


def build_option(group: str, option: str, **changed: Any) -> Any:
    """What ``_target_`` builds with the values of the YAML file, and with those of ``changed``."""
    values = OmegaConf.merge(OmegaConf.load(CONF / group / f"{option}.yaml"), changed)
    return instantiate({key: value for key, value in values.items() if key not in NOT_PARAMETERS})


# ---- columns of a user's own ----

FILLERS = ("1", 1, [1])


class FilledRow(dict[str, Any]):
    """A row with a value in every column that it is asked for."""

    def __init__(self, columns: dict[str, Any], filler: Any) -> None:
        super().__init__(columns)
        self.filler = filler

    def __missing__(self, column: str) -> Any:
        return self.filler


def suitable_filler(judge: Callable[[Any], object]) -> Any:
    """The first of ``FILLERS`` with which an easy text is judged: the name of a column says nothing about its type."""
    for filler in FILLERS:
        try:
            judge(filler)
        except Exception:  # a user's function may raise anything
            continue
        return filler
    return FILLERS[0]


# ---- texts that a model may write ----

PARTS = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<|end|>",
    "\\boxed{",
    "}",
    "\\frac{",
    "$",
    "(",
    "1/0",
    "9" * 50,
]
texts = st.one_of(st.text(max_size=200), st.lists(st.sampled_from([*PARTS, "3+5", " ", "a", "é", "数"])).map("".join))
HARD_TEXTS = {
    "empty": "",
    "space": " \n\t" * 1000,
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u202e\ufeff\0",
    "astral and combining": "\U0001f600" * 100 + "e" + "\u0301" * 1000 + "\U0010ffff",
    "one long word": "a" * 200_000,
    "a number of 350 digits": "<answer>" + "9" * 350 + "</answer>",
    "one long number": "9" * 200_000,
    "a deep expression": "(" * 50_000 + "1" + ")" * 50_000,
    "a tower of powers": "<answer>" + "9^" * 5_000 + "9</answer>",
    "many tags": "<think>" * 20_000 + "</think><answer>" * 20_000,
    "many fractions": "<answer>" + "\\frac{1}{" * 10_000 + "</answer>",
    "many signs": "<answer>" + "-" * 100_000 + "1</answer>",
    "many lines": "<think>a\n" * 20_000,
}
