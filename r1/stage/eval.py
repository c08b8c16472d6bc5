"""Evaluation only: the validation of every other stage, on a model as it is."""

from __future__ import annotations

from typing import ClassVar

from r1.stage.base import Stage


class Eval(Stage):
    """Samples, scores, reports; trains nothing. Its record keeps every completion, for ``r1.rescore``."""

    keeps_completions: ClassVar[bool] = True
