"""The template of DeepSeek-R1-Zero (table 1): plain text, for base models that know no chat format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from r1.core.errors import UserError
from r1.data.conversation import Message, Prompt, Tools
from r1.data.template.base import opening, with_prefill, without_opening
from r1.data.template.chat import eos
from r1.model.chat import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class R1Zero:
    """Puts the question into a fixed text.

    Args:
        text: the whole prompt, ``{prompt}`` where the question goes; other braces are plain characters.
        prefill: what every completion starts with; prompt to the model, part of the completion to rewards.

    Raises:
        UserError: ``text`` has no ``{prompt}``.
    """

    def __init__(self, *, text: str, prefill: str) -> None:
        if "{prompt}" not in text:
            raise UserError(
                "the template never shows the question to the model",
                key=".text",
                value=text,
                expected="a text that contains {prompt}",
            )
        self.text = self.own_text = text
        self.prefill = prefill
        self.chat_template = None

    def render(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, tools: Tools = None) -> str:
        """Raises: UserError: the prompt is more than one user message."""
        return bos(tokenizer) + self.fill(prompt, tools)

    def fill(self, prompt: Prompt, tools: Tools = None) -> str:
        """The text with the question in it, before any tokenizer's own token."""
        if not isinstance(prompt, str) or tools:
            raise UserError(
                "this template renders one question, and the row has a conversation, a system message or tools",
                key=".text",
                value=tools or prompt,
                hint="data/template=chat, or rows whose prompt is the question alone",
            )
        return with_prefill(self.text.replace("{prompt}", prompt), self.prefill)

    def complete(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: str, tools: Tools = None) -> str:
        return without_opening(completion, opening(self.fill(prompt, tools), self.prefill)) + eos(tokenizer)

    def learned(
        self, tokenizer: PreTrainedTokenizerBase, messages: list[Message], tools: Tools, _mask_history: bool
    ) -> Rendered:
        """One question and its answer. Raises: UserError: the conversation is longer."""
        is_pair = [message["role"] for message in messages] == ["user", "assistant"]
        prompt: Prompt = messages[0]["content"] if is_pair else messages
        before = self.render(tokenizer, prompt, tools)
        text = before + self.complete(tokenizer, prompt, messages[-1]["content"], tools)
        return Rendered(text, [(len(before), len(text))])

    def with_variables(self, _tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]) -> R1Zero:
        """Raises: UserError: there is no variable."""
        raise UserError(
            "this template has no variables, and a row has `chat_template_kwargs`",
            key=".columns.chat_template_kwargs",
            value=dict(variables),
            hint="null reads no such column; or data/template=chat",
        )

    def end(self, tokenizer: PreTrainedTokenizerBase) -> str:
        return eos(tokenizer)


def bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that the tokenizer itself would put in front of a text; often there is none."""
    ids = tokenizer("a").input_ids
    adds = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if adds else ""
