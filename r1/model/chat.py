"""A conversation as text: a tokenizer's chat template with its variables, the same text on every day."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
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
    job = chat_job(tokenizer, messages, add_generation_prompt, variables, tools)
    try:
        reply = _rendered.get(job) or _run(job.template, job.date, [job])[0]
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


class RenderJob(NamedTuple):
    """All that decides a text: the template, the date that it may write, and ``{messages, variables}`` as JSON."""

    template: str
    date: str
    values: str


def chat_job(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
    tools: list[dict[str, Any]] | None,
) -> RenderJob:
    """Raises: TemplateRefused: the tokenizer has no one chat template."""
    try:
        template = tokenizer.get_chat_template(tools=tools)
    except ValueError as error:  # several templates, and none is the default
        message = f"the tokenizer has no one chat template: {error}"
        raise TemplateRefused(message, value=tokenizer.name_or_path or None, code=MODEL) from error
    others = {**tokenizer.special_tokens_map, **variables, "add_generation_prompt": add_generation_prompt}
    others |= {"tools": tools} if tools else {}
    date = str(others.pop("strftime_now", TEMPLATE_DATE))
    return RenderJob(template, date, json.dumps({"messages": messages, "variables": others}))


_rendered: dict[RenderJob, dict[str, Any]] = {}


def render_batch(jobs: Iterable[RenderJob]) -> None:
    """Render conversations at once, for the calls of ``render_marked`` that follow: of a short one the call is slowest.

    The texts are kept until the next call. Where the process fails, the single calls find out at which conversation.
    """
    _rendered.clear()
    of_template: dict[tuple[str, str], list[RenderJob]] = {}
    for job in dict.fromkeys(jobs):
        of_template.setdefault((job.template, job.date), []).append(job)
    for (template, date), those in of_template.items():
        with suppress(TimeoutError, WorkerDied):
            _rendered.update(zip(those, _run(template, date, those), strict=True))


def _run(template: str, date: str, jobs: Sequence[RenderJob]) -> list[dict[str, Any]]:
    batch = {"template": template, "date": date, "jobs": [job.values for job in jobs]}
    replies: list[dict[str, Any]] = _processes().run(batch, RENDER_SECONDS)
    return replies


@cache
def _processes() -> WorkerPool:
    return WorkerPool(1, str(Path(__file__).with_name("template_worker.py")), name="template", code=MODEL)
