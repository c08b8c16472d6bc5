"""Which cases of a parametrised test belong to the default suite."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def long_but(default: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """All cases, those outside ``default`` marked long; a tuple has a value for each of several names."""
    cases = list(cases)
    assert set(default) <= set(cases), set(default) - set(cases)
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    marks = [() if case in default else pytest.mark.long for case in cases]
    return [pytest.param(*value, marks=mark) for value, mark in zip(values, marks, strict=True)]
