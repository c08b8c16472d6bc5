"""Evaluation only: the validation of every other stage, on a model as it is."""

from __future__ import annotations

from r1.stage.base import Stage


class Eval(Stage):
    """Samples, scores, reports; trains nothing."""
