"""A conversation as text: a tokenizer's chat template with its variables, the same text on every day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from r1.model.transformers_adapter import set_template_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = "2024-07-26"  # the date in Llama 3's own template, for those that write the current one
NO_VARIABLES: Mapping[str, Any] = {}


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
        jinja2.TemplateError: the template refuses the messages, or is no Jinja template.
    """
    others = {name: value for name, value in variables.items() if name != "strftime_now"}
    date = datetime.fromisoformat(variables.get("strftime_now", TEMPLATE_DATE))
    set_template_date(tokenizer.get_chat_template(), date)
    text = tokenizer.apply_chat_template(
        messages, add_generation_prompt=add_generation_prompt, tokenize=False, **others
    )
    return str(text)
