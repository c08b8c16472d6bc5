"""A conversation as text: a tokenizer's chat template with its variables, the same text on every day."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from r1.core.errors import MODEL, UserError
from r1.core.worker_pool import WorkerDied, WorkerPool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = "2024-07-26"  # the date in Llama 3's own template, for those that write the current one
NO_VARIABLES: Mapping[str, Any] = {}
RENDER_SECONDS = 20.0  # for one conversation; ordinary ones take less than a millisecond


class TemplateRefused(UserError):
    """A chat template raises an error on these messages, or is no Jinja template."""


class Rendered(NamedTuple):
    """The text of a conversation, and the (start, end) of what the template marks with ``{% generation %}``, if any."""

    text: str
    spans: list[tuple[int, int]] | None


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    *,
    add_generation_prompt: bool,
    variables: Mapping[str, Any] = NO_VARIABLES,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """The text of ``messages``, special tokens included; see ``render_marked``."""
    return render_marked(tokenizer, messages, add_generation_prompt, variables, tools).text


def render_marked(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
    tools: list[dict[str, Any]] | None,
) -> Rendered:
    """The text of ``messages``, and its marked parts; the tokenizer has a chat template.

    Args:
        variables: further variables of the template. ``strftime_now`` is the date, YYYY-MM-DD, that the function of
            that name formats; transformers takes the current one, which gives another prompt on another day.
        tools: JSON schemas of functions.

    Raises:
        TemplateRefused: the template refuses the messages, or is no Jinja template.
        UserError: it does not end, or takes too much memory.
    """
    name, hint = tokenizer.name_or_path or None, "another chat template"
    try:
        template = tokenizer.get_chat_template(tools=tools)
    except ValueError as error:  # several templates, and none is the default
        raise TemplateRefused(f"the tokenizer has no one chat template: {error}", value=name, code=MODEL) from error
    others = {**tokenizer.special_tokens_map, **variables, "add_generation_prompt": add_generation_prompt}
    others |= {"tools": tools} if tools else {}
    date = str(others.pop("strftime_now", TEMPLATE_DATE))
    job = {"template": template, "messages": messages, "date": date, "variables": others}
    try:
        reply = _processes().run(job, RENDER_SECONDS)
    except TimeoutError:
        message = f"the chat template does not end: it was stopped after {RENDER_SECONDS:.0f} s"
        raise UserError(message, value=name, hint=hint, code=MODEL) from None
    except WorkerDied:
        message = "the chat template ended its process: it takes too much memory, or recurses too deeply"
        raise UserError(message, value=name, hint=hint, code=MODEL) from None
    if "error" in reply:
        raise TemplateRefused(f"the chat template refuses the messages: {reply['error']}", value=name, code=MODEL)
    spans = reply["spans"]
    return Rendered(str(reply["text"]), None if spans is None else [(start, end) for start, end in spans])


@cache
def _processes() -> WorkerPool:
    return WorkerPool(1, str(Path(__file__).with_name("template_worker.py")), name="template", code=MODEL)
