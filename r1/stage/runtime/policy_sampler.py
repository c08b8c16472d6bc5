"""Completions of the policy: sampled by the engine, decoded to text, scored by the reward terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from r1.core.errors import errors_mounted_at
from r1.data.base import Data, Row
from r1.data.conversation import question_text
from r1.model import loading
from r1.reward.base import Rewards, Scores
from r1.reward.initial_policy import InitialPolicy
from r1.rollout.base import Engine, Rollout, Sampling
from r1.stage.runtime.run_context import RunContext

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class PolicySampler:
    """Samples and scores completions; ``attach`` gives it the policy once that is loaded."""

    policy: PreTrainedModel

    def __init__(
        self, data: Data, rewards: Rewards, engine: Engine, tokenizer: PreTrainedTokenizerBase, run: RunContext
    ) -> None:
        self.data, self.rewards, self.engine, self.tokenizer, self.run = data, rewards, engine, tokenizer, run
        with errors_mounted_at("rollout"):
            engine.find_stop_texts(tokenizer)
        self.initial_policy: InitialPolicy | None = None

    def attach(self, policy: PreTrainedModel) -> None:
        """Sample from ``policy``; a frozen copy of it is kept if a reward term needs the initial policy."""
        self.policy = policy
        if self.rewards.any_term_needs("frozen_policy"):
            self.initial_policy = InitialPolicy(
                policy, self.tokenizer, self.stop_ids, lambda: self.run.check_for_stop()
            )

    @property
    def stop_ids(self) -> set[int]:
        """Tokens that end a completion: the templates', the tokenizer's and the generation config's."""
        ends = self.data.end_tokens(self.tokenizer)
        ids: set[Any] = {*map(self.tokenizer.convert_tokens_to_ids, ends)}
        return (loading.stop_ids(self.policy, self.tokenizer) | ids) - {None}

    def prompt_ids(self, row: Row) -> list[int]:
        return self.data.prompt_ids(self.tokenizer, row)

    def sample(
        self, rows: Sequence[Row], seeds: list[list[int]], sampling: Sampling | None = None
    ) -> list[list[Rollout]]:
        """``len(seeds[p])`` completions of the prompt of each row p, with the weights of the engine's last update.

        Args:
            sampling: None: the engine's.
        """
        prompts = [self.prompt_ids(row) for row in rows]
        engine = self.engine.with_sampling(sampling, self.tokenizer) if sampling else self.engine
        return engine.generate(prompts, seeds, self.stop_ids, self.run.check_for_stop)

    @contextmanager
    def reporting(self, on_finished: Callable[[int], None]) -> Iterator[None]:
        """Inside the block the engine reports how many completions of a call are finished."""
        self.engine.on_finished = on_finished
        try:
            yield
        finally:
            del self.engine.on_finished

    def text(self, rollout: Rollout, row: Row) -> str:
        """The text that rewards and readers see."""
        ids = rollout.prompt_ids, rollout.completion_ids
        return self.data.text(self.tokenizer, row, *ids, rollout.truncated, rollout.stop_text)

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False).input_ids]

    def score(self, rows: Sequence[Row], rollouts: Sequence[Rollout]) -> tuple[list[str], Scores]:
        """Texts and reward terms of B completions, ``rollouts[b]`` being one of ``rows[b]``."""
        texts = [self.text(rollout, row) for rollout, row in zip(rollouts, rows, strict=True)]
        scores = self.rewards.score(
            prompts=[question_text(row["prompt"]) for row in rows],
            completions=texts,
            rows=list(rows),
            verifier=self.data.verifier,
            completion_ids=[rollout.completion_ids for rollout in rollouts],
            max_completion_length=self.engine.max_completion_length,
            truncated=[rollout.truncated for rollout in rollouts],
            frozen_policy=self.initial_policy,
            check_for_stop=self.run.check_for_stop,
        )
        return texts, scores

    def pop_scoring_errors(self) -> dict[str, float]:
        """Completions that verifier and rewards could not score since the last call, by reason, as metrics."""
        counts = self.data.pop_error_counts() | self.rewards.pop_error_counts()
        return {name: float(count) for name, count in counts.items()}
