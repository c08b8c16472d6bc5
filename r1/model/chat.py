"""A conversation as text: a tokenizer's chat template with its variables, the same text on every day."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1.core.errors import MODEL, UserError
from r1.core.worker_pool import WorkerDied, WorkerPool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = "2024-07-26"  # the date in Llama 3's own template, for those that write the current one
NO_VARIABLES: Mapping[str, Any] = {}
RENDER_SECONDS = 20.0  # for one conversation; ordinary ones take less than a millisecond


class TemplateRefused(UserError):
    """A chat template raises an error on these messages, or is no Jinja template."""


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    *,
    add_generation_prompt: bool,
    variables: Mapping[str, Any] = NO_VARIABLES,
) -> str:
    """The text of ``messages``, special tokens included; the tokenizer has a chat template.

    Args:
        variables: further variables of the template. ``strftime_now`` is the date, YYYY-MM-DD, that the function of
            that name formats; transformers takes the current one, which gives another prompt on another day.

    Raises:
        TemplateRefused: the template refuses the messages, or is no Jinja template.
        UserError: it does not end, or takes too much memory.
    """
    name, hint = tokenizer.name_or_path or None, "another chat template"
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # several templates, and none is the default
        raise TemplateRefused(f"the tokenizer has no one chat template: {error}", value=name, code=MODEL) from error
    others = {**tokenizer.special_tokens_map, **variables, "add_generation_prompt": add_generation_prompt}
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
    return str(reply["text"])


@cache
def _processes() -> WorkerPool:
    return WorkerPool(1, str(Path(__file__).with_name("template_worker.py")), name="template", code=MODEL)
