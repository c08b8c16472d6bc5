"""A conversation as text: a tokenizer's chat template with its variables, the same text on every day."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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


class TemplateInputs(NamedTuple):
    """A chat template with all that it reads besides the messages.

    Attributes:
        date: the date that the template may write.
        variables: the others, as JSON.
        name: the tokenizer's, for errors.
    """

    template: str
    date: str
    variables: str
    name: str | None


class RenderJob(NamedTuple):
    """All that decides a text. ``messages``: (role, content) of each; as JSON where one has more."""

    inputs: TemplateInputs
    messages: tuple[tuple[str, str], ...] | str

    def values(self) -> str:
        """``{"messages": [...], "variables": {...}}`` as JSON."""
        messages = self.messages
        if not isinstance(messages, str):
            messages = json.dumps([{"role": role, "content": content} for role, content in messages])
        return f'{{"messages": {messages}, "variables": {self.inputs.variables}}}'


def template_inputs(
    tokenizer: PreTrainedTokenizerBase,
    add_generation_prompt: bool,
    variables: Mapping[str, Any] = NO_VARIABLES,
    tools: list[dict[str, Any]] | None = None,
) -> TemplateInputs:
    """The tokenizer's template with its variables.

    Args:
        variables: further variables of the template. ``strftime_now`` is the date, YYYY-MM-DD, that the function of
            that name formats; transformers takes the current one, which gives another prompt on another day.
        tools: JSON schemas of functions.

    Raises:
        TemplateRefused: the tokenizer has no one chat template.
    """
    name = tokenizer.name_or_path or None
    try:
        template = tokenizer.get_chat_template(tools=tools)
    except ValueError as error:  # several templates, and none is the default
        message = f"the tokenizer has no one chat template: {error}"
        raise TemplateRefused(message, value=name, code=MODEL) from error
    others = {**tokenizer.special_tokens_map, **variables, "add_generation_prompt": add_generation_prompt}
    others |= {"tools": tools} if tools else {}
    date = str(others.pop("strftime_now", TEMPLATE_DATE))
    return TemplateInputs(template, date, json.dumps(others), name)


def render_job(inputs: TemplateInputs, messages: list[dict[str, Any]]) -> RenderJob:
    if all(tuple(message) == ("role", "content") and isinstance(message["content"], str) for message in messages):
        return RenderJob(inputs, tuple((message["role"], message["content"]) for message in messages))
    return RenderJob(inputs, json.dumps(messages))


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    *,
    add_generation_prompt: bool,
    variables: Mapping[str, Any] = NO_VARIABLES,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """The text of ``messages``, special tokens included. Args: as of ``template_inputs``. Raises: as ``render``."""
    return render(render_job(template_inputs(tokenizer, add_generation_prompt, variables, tools), messages)).text


def render(job: RenderJob) -> Rendered:
    """The text of a conversation, and its marked parts.

    Raises:
        TemplateRefused: the template refuses the messages, or is no Jinja template.
        UserError: it does not end, or takes too much memory.
    """
    name, hint = job.inputs.name, "another chat template"
    try:
        reply = _rendered.get(job) or _run([job])[0]
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


_rendered: dict[RenderJob, dict[str, Any]] = {}


def render_batch(jobs: Iterable[RenderJob]) -> None:
    """Render conversations at once, for the calls of ``render`` that follow: of a short one the call is slowest.

    The texts are kept until the next call. Where the process fails, the single calls find out at which conversation.
    """
    _rendered.clear()
    if different := list(dict.fromkeys(jobs)):
        with suppress(TimeoutError, WorkerDied):
            _rendered.update(zip(different, _run(different), strict=True))


def _run(jobs: list[RenderJob]) -> list[dict[str, Any]]:
    """The replies of ``template_worker.py``."""
    templates = list(dict.fromkeys((job.inputs.template, job.inputs.date) for job in jobs))
    index = {template: i for i, template in enumerate(templates)}
    values = [(index[job.inputs.template, job.inputs.date], job.values()) for job in jobs]
    replies: list[dict[str, Any]] = _processes().run({"templates": templates, "jobs": values}, RENDER_SECONDS)
    return replies


@cache
def _processes() -> WorkerPool:
    return WorkerPool(1, str(Path(__file__).with_name("template_worker.py")), name="template", code=MODEL)
