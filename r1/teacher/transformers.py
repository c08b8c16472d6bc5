"""A causal LM in the transformers format as teacher, sampled in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from annotated_types import Ge, MinLen

from r1.core.content_hash import content_hashes
from r1.core.errors import MODEL, UserError, errors_mounted_at
from r1.core.model_paths import split_adapters
from r1.data.base import Row
from r1.data.conversation import messages_of, with_system
from r1.data.decoding import decode_completion
from r1.data.template.base import template_prefill
from r1.data.template.chat import check_variables, check_variables_read
from r1.model.chat import render_chat
from r1.model.loading import DType, Model, stop_ids
from r1.rollout.base import NEUTRAL, Sampling
from r1.teacher.base import Answer, Question, Reply, content_key, question_identity, set_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from r1.rollout.base import Engine, Rollout


class Transformers:
    """Renders questions with the model's chat template and samples with r1's embedded rollout engine.

    A row's ``rendered`` prompt, if it has one, is used unchanged instead. Nothing is loaded before the first question.
    Answers do not depend on the rest of their batch, and the global random state does not change.

    Args:
        path: a hub id, a local folder, a run's folder, or ``r1:<name>``.
        max_completion_length: tokens, including the stop token.
        system: a system message before a question that has none; null: none.
        chat_template_kwargs: variables of its chat template, by name, as in ``data.template``.
        batch_size: answers sampled at once; bounds the memory, cannot change the result.
        sampling: as in ``conf/rollout/_base.yaml``; the model's generation_config.json has no say.

    Raises:
        UserError: a variable is not the user's to set.
    """

    def __init__(
        self,
        *,
        path: str,
        dtype: DType,
        max_completion_length: Annotated[int, Ge(1)],
        system: Annotated[str, MinLen(1)] | None,
        chat_template_kwargs: dict[str, Any] | None,
        batch_size: Annotated[int, Ge(1)],
        **sampling: Unpack[Sampling],
    ) -> None:
        self.name, self.dtype, self.system, self.sampling = path, dtype, system, sampling
        self.max_completion_length, self.batch_size = max_completion_length, batch_size
        self.variables = check_variables(chat_template_kwargs or {})

    def identity(self, row: Row) -> dict[str, Any]:
        """Names the weights by their content: the files of a folder may change."""
        neutral = dict(NEUTRAL)  # a knob that changes nothing is left out: older answers, without it, keep their keys
        knobs = {name: value for name, value in self.sampling.items() if value != neutral[name]}
        sampling = {"temperature": self.sampling["temperature"], "max_tokens": self.max_completion_length} | knobs
        question = question_identity(row) | set_values(chat_template_kwargs=self.variables, system=self.system)
        prompt = {"rendered": row["rendered"]} if row.get("rendered") else question
        return {"teacher": "transformers", "model": self._content_id, "dtype": self.dtype, **sampling, **prompt}

    def answer(self, questions: Sequence[Question], check_for_stop: Callable[[], None]) -> Generator[list[Reply]]:
        """Raises: UserError: the model cannot be loaded, or has no chat template for a row without ``rendered``."""
        from r1.rollout.transformers import Transformers as Sampler

        sizes = {"max_completion_length": self.max_completion_length, "batch_size": self.batch_size}
        engine = Sampler(**sizes, async_steps=0, **self.sampling)
        for start in range(0, len(questions), self.batch_size):
            yield self._sample(engine, questions[start : start + self.batch_size], check_for_stop)

    def _sample(self, engine: Engine, batch: Sequence[Question], check_for_stop: Callable[[], None]) -> list[Reply]:
        """Sample one batch; answers to the same prompt share its prefill."""
        tokenizer, model = self.tokenizer, self.model
        groups = [(text, list(group)) for text, group in groupby(batch, key=lambda q: self._render(q.row))]
        prompts = [tokenizer(text, add_special_tokens=False).input_ids for text, _ in groups]
        seeds = [[question.seed for question in group] for _, group in groups]
        engine.update(model, 0)
        with errors_mounted_at("teacher"):
            engine.find_stop_texts(tokenizer)
        rollouts = engine.generate(prompts, seeds, stop_ids(model, tokenizer), check_for_stop)
        return [
            Reply(question, _answer(tokenizer, template_prefill(text), rollout))
            for (text, group), completions in zip(groups, rollouts, strict=True)
            for question, rollout in zip(group, completions, strict=True)
        ]

    @cached_property
    def _content_id(self) -> str:
        """sha256 over the files of a local folder; the name and commit of a hub model; with those of its adapters."""
        with errors_at_teacher_path():
            base, adapters = split_adapters(self.name)
            if Path(base).is_dir():
                parts = [content_key(content_hashes(Path(base)))]
            else:
                parts = [f"{base}@{getattr(self._source.load_config(), '_commit_hash', None)}"]
        return "+".join([*parts, *(content_key(content_hashes(folder)) for folder in adapters)])

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Raises: UserError: it cannot be loaded, or its chat template does not read a variable."""
        with errors_at_teacher_path():
            tokenizer = self._source.load_tokenizer()
        if self.variables and tokenizer.chat_template is not None:
            with errors_mounted_at("teacher"):
                check_variables_read(self.variables, tokenizer)
        return tokenizer

    @cached_property
    def model(self) -> PreTrainedModel:
        """Frozen, in eval mode, on a GPU if there is one.

        Raises:
            UserError: the model cannot be loaded.
        """
        import torch

        with errors_at_teacher_path():
            model = self._source.load(seed=0)  # the seed is for random weights only
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)  # type: ignore[arg-type]  # transformers hides torch's signature
        model.eval().requires_grad_(False)
        return model

    @property
    def _source(self) -> Model:
        return Model.pretrained(self.name, self.dtype)

    def _render(self, row: Row) -> str:
        if row.get("rendered"):
            return str(row["rendered"])
        tokenizer = self.tokenizer
        if tokenizer.chat_template is None:
            raise UserError(
                "this teacher has no chat template",
                key="teacher.path",
                value=self.name,
                expected="a chat model; any model for rows with a `rendered` prompt",
                code=MODEL,
            )
        messages, tools = with_system(messages_of(row), self.system), row.get("tools")
        text = render_chat(tokenizer, messages, add_generation_prompt=True, variables=self.variables, tools=tools)
        if self.system and messages[0]["content"].strip() not in text:
            message = "the teacher's chat template does not show a system message"
            raise UserError(message, key="teacher.system", value=self.system, hint="set it to null", code=MODEL)
        return text


@contextmanager
def errors_at_teacher_path() -> Iterator[None]:
    """Report loading errors at ``teacher.path``; ``Model`` reports them at the policy's key."""
    try:
        yield
    except UserError as error:
        error.key = "teacher.path"
        raise


def _answer(tokenizer: PreTrainedTokenizerBase, prefill: str, rollout: Rollout) -> Answer:
    text = decode_completion(
        tokenizer, rollout.prompt_ids, rollout.completion_ids, rollout.truncated, rollout.stop_text
    )
    reason = "length" if rollout.truncated else "stop"
    return Answer(f"{prefill}{text}", reason, len(rollout.prompt_ids), len(rollout.completion_ids))
