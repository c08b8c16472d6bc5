"""The tokenizer's own chat template: the one that instruction-tuned models were trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1.core.errors import MODEL, UserError
from r1.data.template.base import MARKER, with_prefill

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Chat:
    """Renders a question as a user's message and opens the assistant's turn.

    Args:
        system: a system message before it, or None.
        prefill: what every completion starts with; prompt to the model, part of the completion to rewards.
    """

    def __init__(self, *, system: str | None, prefill: str) -> None:
        self.system, self.prefill = system, prefill

    def render(self, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
        """Raises: UserError: there is no chat template, or it refuses the messages."""
        return with_prefill(self._apply(tokenizer, [{"role": "user", "content": prompt}], True), self.prefill)

    def end(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The first special token that the chat template writes after an assistant's message, else EOS."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARKER}]
        after = self._apply(tokenizer, turns, False).rpartition(MARKER)[2]
        ends = [(after.find(token), -len(token), token) for token in specials(tokenizer) if token in after]
        return min(ends)[2] if ends else eos(tokenizer)

    def _apply(self, tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], opened: bool) -> str:
        from jinja2 import TemplateError

        if tokenizer.chat_template is None:
            raise UserError(
                "this model's tokenizer has no chat template",
                key="model.path",
                value=tokenizer.name_or_path or None,
                hint="data/template=r1_zero, the template for base models",
                code=MODEL,
            )
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        try:
            text = tokenizer.apply_chat_template(system + turns, add_generation_prompt=opened, tokenize=False)
        except TemplateError as error:
            raise UserError(
                f"the chat template refuses the messages: {error}",
                key=".system",
                value=self.system,
                hint="set system to null" if system else "data/template=r1_zero",
                code=MODEL,
            ) from error
        return str(text)


def specials(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """All special tokens, those outside the named roles (eos, bos, ...) included."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*tokenizer.all_special_tokens, *added})


def eos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's end-of-sequence token. Raises: UserError: it has none."""
    if not isinstance(tokenizer.eos_token, str):
        raise UserError(
            "this model's tokenizer has no end-of-sequence token, so no completion could ever end",
            key="model.path",
            value=tokenizer.name_or_path or None,
            code=MODEL,
        )
    return tokenizer.eos_token
