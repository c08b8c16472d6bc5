"""Texts that end a completion: where the text first contains one of them, the completion ends.

The token that completes such a text is the completion's last. It may hold more characters, and the text before it ends
somewhere among its tokens, so the tokens stay as they were sampled and only the text is cut (vLLM's
``include_stop_str_in_output=False``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from r1.core.errors import UserError
from r1.data.decoding import decode_completion, skipped_ids
from r1.rollout.base import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAIL_MARGIN = 8  # tokens: the first ones of a tail may be decoded otherwise than behind their own text


class StopTexts:
    """Finds the texts of ``Sampling.stop`` in the text that rewards and readers see.

    That text has no special tokens: a stop text that is one ends a completion as a stop token.

    Attributes:
        ids: the special tokens among the texts.
        tail: the last tokens of a completion that hold all of a text that its last token completes.

    Raises:
        UserError: a text has a special token within it, which no decoded text has.
    """

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.skipped = tokenizer, skipped_ids(tokenizer)[0]
        specials = {str(tokenizer.convert_ids_to_tokens(i)): i for i in self.skipped}
        self.ids = {specials[text] for text in texts if text in specials}
        self.texts = [text for text in texts if text not in specials]
        for text in self.texts:
            if within := [token for token in specials if token in text]:
                message = f"no text of a completion shows the special token {within[0]}"
                raise UserError(message, key=".stop", value=text, hint=f"stop at {within[0]} alone")
        self.tail = max((len(text.encode()) for text in self.texts), default=0) + TAIL_MARGIN

    def ended_rows(self, prompts: Sequence[list[int]], tokens: Tensor) -> Tensor:
        """(B,) bool: which of (B, T) completions show one of the texts with their last token.

        The whole text is decoded only where the last ``tail`` tokens show one.
        """
        recent = [[i for i in ids if i not in self.skipped] for ids in tokens[:, -self.tail :].tolist()]
        ended = [
            self._first(str(self.tokenizer.decode(ids))) is not None and self.find(prompt, row.tolist()) is not None
            for prompt, row, ids in zip(prompts, tokens, recent, strict=True)
        ]
        return torch.tensor(ended, device=tokens.device)

    def find(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> tuple[int, str] | None:
        """How many tokens of a completion it takes to show one of the texts, and that text; None: all show none."""
        if (first := self._first(self._decode(prompt_ids, ids))) is None:
            return None
        low, high = 0, len(ids)  # the first `high` tokens show one, the first `low` do not
        while high - low > 1:
            middle = (low + high) // 2
            text = self._first(self._decode(prompt_ids, ids[:middle]))
            low, high, first = (middle, high, first) if text is None else (low, middle, text)
        return high, first

    def _decode(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        return decode_completion(self.tokenizer, prompt_ids, ids, truncated=True)

    def _first(self, text: str) -> str | None:
        """The stop text that starts first in ``text``."""
        positions = {stop: text.find(stop) for stop in self.texts if stop in text}
        return min(positions, key=positions.__getitem__) if positions else None


def finished_rollout(
    prompt_ids: list[int], ids: list[int], logps: list[float], stop_ids: set[int], stop_texts: StopTexts | None
) -> Rollout:
    """A completion cut behind its first stop id, or behind the token that completes a stop text before it."""
    stop_ids = stop_ids | stop_texts.ids if stop_texts else stop_ids
    end = next((t + 1 for t, token in enumerate(ids) if token in stop_ids), len(ids))
    closed = ids[end - 1] in stop_ids
    if stop_texts and (first := stop_texts.find(prompt_ids, ids[: end - closed])):
        num_tokens, text = first
        return Rollout(prompt_ids, ids[:num_tokens], logps[:num_tokens], truncated=False, stop_text=text)
    return Rollout(prompt_ids, ids[:end], logps[:end], truncated=not closed)
