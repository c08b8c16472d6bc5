"""A teacher that is a causal LM in the transformers format, sampled in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from r1.data.base import Row
from r1.data.template.base import template_prefill
from r1.errors import MODEL, UserError
from r1.model import DType, Model
from r1.teacher.base import Answer, sample_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from r1.rollout.base import Rollout


class Transformers:
    """Asks in the model's own chat template, and samples with r1's embedded rollout engine.

    A row that carries a ``rendered`` prompt is asked with that text as it stands. Nothing is loaded before
    the first question. Answers do not depend on the batch around them; no global random state is touched.

    Args:
        path: a hub id, a local folder, a run's folder, or ``r1:<name>``.
        temperature: divides the logits; 0 is greedy. No top-k, no top-p.
        max_completion_length: tokens, the closing one included.
        batch_size: answers sampled at once; bounds the memory, cannot change the result.
    """

    def __init__(
        self,
        *,
        path: str,
        dtype: DType,
        temperature: Annotated[float, Ge(0)],
        max_completion_length: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)],
    ) -> None:
        self.name, self.dtype, self.temperature = path, dtype, temperature
        self.max_completion_length, self.batch_size = max_completion_length, batch_size

    def answer(self, rows: list[Row], num_samples: int, seed: int) -> list[list[Answer]]:
        """Raises: UserError: the model cannot be loaded, or has no chat template for a row not rendered."""
        from r1.rollout.transformers import Transformers as Engine

        if not rows or not num_samples:
            return [[] for _ in rows]
        tokenizer, model = self.tokenizer, self.model
        texts = [row.get("rendered") or self._render(row["prompt"]) for row in rows]
        prompts = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        seeds = [[sample_seed(seed, row["prompt"], k) for k in range(num_samples)] for row in rows]
        engine = Engine(
            temperature=self.temperature,
            max_completion_length=self.max_completion_length,
            batch_size=self.batch_size,
        )
        groups = engine.generate(model, prompts, seeds, _stop_ids(model, tokenizer))
        return [
            [_answer(tokenizer, template_prefill(text), rollout) for rollout in group]
            for text, group in zip(texts, groups, strict=True)
        ]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Raises: UserError: it cannot be loaded."""
        with _blamed_on_the_teacher():
            return self._source.load_tokenizer()

    @cached_property
    def model(self) -> PreTrainedModel:
        """Frozen, in eval mode, on a GPU if there is one. Raises: UserError: it cannot be loaded."""
        import torch

        with _blamed_on_the_teacher():
            model = self._source.load(seed=0)  # the seed is for random weights only
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)  # type: ignore[arg-type]  # transformers hides torch's signature
        model.eval().requires_grad_(False)
        return model

    @property
    def _source(self) -> Model:
        return Model(
            path=self.name,
            config=None,
            tokenizer=None,
            dtype=self.dtype,
            attn_implementation="sdpa",
            gradient_checkpointing=False,
            lora=None,
        )

    def _render(self, prompt: str) -> str:
        tokenizer = self.tokenizer
        if tokenizer.chat_template is None:
            raise UserError(
                "this teacher has no chat template, so it cannot be asked",
                where="teacher.path",
                given=self.name,
                allowed="a chat model; any model for rows with a `rendered` prompt",
                code=MODEL,
            )
        message = [{"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)  # type: ignore[return-value]


@contextmanager
def _blamed_on_the_teacher() -> Iterator[None]:
    """What cannot be loaded is ``teacher.path``, not the policy's."""
    try:
        yield
    except UserError as error:
        raise UserError(
            error.what,
            where="teacher.path",
            given=error.given,
            allowed=error.allowed,
            do=error.do,
            code=error.code,
        ) from None


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that close a completion: the generation config's (one, several or none) and the tokenizer's."""
    listed = model.generation_config.eos_token_id if model.generation_config else None
    several = listed if isinstance(listed, list) else [listed]
    return {token for token in (*several, tokenizer.eos_token_id) if token is not None}


def _answer(tokenizer: PreTrainedTokenizerBase, opening: str, rollout: Rollout) -> Answer:
    text = tokenizer.decode(rollout.completion_ids, skip_special_tokens=True)
    reason = "length" if rollout.truncated else "stop"
    return Answer(f"{opening}{text}", reason, len(rollout.prompt_ids), len(rollout.completion_ids))
