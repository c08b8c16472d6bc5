"""Helpers of the templates: the text that opens a completion, and the text before and after a question."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from r1.data.base import Template

MARKER = "r1marker"
OPEN_TAG = re.compile(r"<(?:think|answer)>\s*\Z")


def template_prefill(rendered: str) -> str:
    """The open tag that a rendered prompt ends with, e.g. ``"<think>\\n"``, or an empty string.

    Some chat templates open the thinking themselves. A completion then never contains that tag, and a
    reward for its form stays at 0 unless the template's ``prefill`` counts it in.
    """
    match = OPEN_TAG.search(rendered)
    return match.group() if match else ""


def with_prefill(rendered: str, prefill: str) -> str:
    """``rendered`` with ``prefill`` after it, but not twice; space at the end makes no difference.

    A prefill may be longer than the tag that a prompt ends with: ``"<think>\\nOkay"`` is written in the tag's place.
    """
    opened, text = template_prefill(rendered), prefill.strip()
    if opened and text.startswith(opened.strip()) and text != opened.strip():
        return rendered.removesuffix(opened) + prefill.lstrip()
    return rendered if rendered.rstrip().endswith(prefill.strip()) and prefill.strip() else rendered + prefill


def opening(rendered: str, prefill: str) -> str:
    """The end of a rendered prompt that the completion's text starts with: the prefill, or a tag that it opens."""
    return rendered[rendered.rindex(prefill.strip()) :] if prefill.strip() else prefill or template_prefill(rendered)


def without_opening(completion: str, opened: str) -> str:
    """The part of ``completion`` that follows a prompt which ends with ``opened``; space that both have comes once."""
    tag, text = opened.strip(), completion.lstrip()
    rest = text[len(tag) :] if tag and text.startswith(tag) else completion
    return rest.lstrip() if opened[-1:].isspace() else rest


def around_question(template: Template, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The text before a question and the text after it, up to the completion.

    A model that continues the first writes a new question (Magpie's pre-query template, Xu et al. 2024).
    """
    before, _, after = template.render(tokenizer, MARKER).partition(MARKER)
    return before, after
