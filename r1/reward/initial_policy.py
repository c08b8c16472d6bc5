"""The initial policy: a frozen copy that a reward term can sample from while the policy itself is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from r1.core.errors import errors_mounted_at
from r1.data.decoding import decode_completion
from r1.data.template.chat import Chat
from r1.rollout.base import Engine

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class InitialPolicy:
    """Answers in the tokenizer's own chat template.

    Args:
        policy: copied, in eval mode, without gradients.
        stop_ids: tokens that close an answer.
        check_for_stop: called between two tokens; raises if the run is to stop.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: set[int],
        check_for_stop: Callable[[], None],
    ) -> None:
        self.policy = policy
        self.model = copy.deepcopy(policy).eval().requires_grad_(False)
        self.tokenizer, self.stop_ids, self.check_for_stop = tokenizer, stop_ids, check_for_stop

    def answer(
        self, engine: Engine, prompts: Sequence[str], seeds: Sequence[int], variables: dict[str, Any]
    ) -> list[str]:
        """One answer to each prompt, sampled with its seed. ``variables``: of the chat template."""
        self.model.to(self.policy.device)  # type: ignore[arg-type]  # transformers hides torch's signature
        chat = Chat(system=None, prefill="", chat_template=None, chat_template_kwargs=variables)
        ids = [self.tokenizer(chat.render(self.tokenizer, p), add_special_tokens=False).input_ids for p in prompts]
        engine.update(self.model, 0)
        with errors_mounted_at(".engine"):
            engine.find_stop_texts(self.tokenizer)
        groups = engine.generate(ids, [[seed] for seed in seeds], self.stop_ids, self.check_for_stop)
        return [
            decode_completion(self.tokenizer, r.prompt_ids, r.completion_ids, r.truncated, r.stop_text)
            for (r,) in groups
        ]
