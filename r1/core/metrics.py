"""What every metric means, in one place: the names in metrics.jsonl, in manifests, on W&B and on the report's page."""

from __future__ import annotations

from fnmatch import fnmatchcase

MEANING = {
    "val/pass@1": "share of held-out completions whose answer is right",
    "val/pass@*": "chance that one of k completions is right, unbiased",
    "val/maj@*": "chance that the majority answer of k completions is right",
    "val/completion_length": "tokens in a completion",
    "val/thinking_length": "tokens between the think tags",
    "val/truncated": "share of completions that ran into the length limit",
    "val/format": "share of completions in the strict form: thinking, then one answer, in their tags",
    "val/language": "share of the thinking's words in its most frequent language, whatever that is",
    "val/reflection": "share of completions that re-check or correct themselves",
    "val/pair_accuracy": "share of held-out pairs in which the reward model prefers the chosen answer",
    "val/loss": "Bradley-Terry loss of a reward model on held-out pairs",
    "val/margin": "score of the chosen answer less that of the rejected one",
    "val/reward": "mean weighted sum of the reward terms, where some questions have no gold answer",
    "val/reward/*": "mean of this reward term, before its weight",
    "val/scorer/*": "answers that the verifier could not work out, by reason",
    "val/*/pass@1": "as val/pass@1, for one part of a mixture",
    "val/*/reward": "mean weighted sum of the reward terms, for one part of a mixture",
    "val/*/completion_length": "tokens in a completion, for one part of a mixture",
    "val/*/format": "share of completions in the strict form, for one part of a mixture",
    "train/reward": "mean weighted sum of the reward terms",
    "train/reward_std": "standard deviation of the reward inside a group",
    "train/frac_zero_std": "share of groups whose rewards are all equal: no signal",
    "train/completion_length": "tokens in a training completion",
    "train/truncated": "share of training completions that ran into the length limit",
    "train/language": "share of the thinking's words in its most frequent language",
    "train/reflection": "share of training completions that re-check or correct themselves",
    "train/resampled": "share of groups without signal that were drawn again",
    "train/loss": "the loss that is minimised, over the whole optimizer step",
    "train/kl": "KL from the policy to the reference, per token",
    "train/entropy": "entropy of the next token, mean over tokens",
    "train/clip_frac": "share of tokens whose ratio is clipped",
    "train/logprob_gap": "distance of the engine's log-probabilities from the trainer's",
    "train/weights_lag": "optimizer steps by which the weights that sampled the batch are older than those it trains",
    "train/grad_norm": "norm of the gradient before it is clipped",
    "train/lr": "learning rate",
    "train/divergence": "divergence of the student from its teacher, per token",
    "train/pair_accuracy": "share of training pairs in which the reward model prefers the chosen answer",
    "train/total_tokens": "completion tokens sampled since the start",
    "train/num_tokens": "target tokens of the optimizer step",
    "rejection/pass_rate": "mean share of right answers to a question",
    "rejection/frac_unsolved": "share of questions without a right answer",
    "rejection/*": "the model's own answers, by what became of them",
    "questions/written": "questions that the student wrote",
    "questions/*": "share of the student's questions that were rejected, by reason",
    "distill/*": "the teacher's answers, by what became of them",
    "reward/kl": "KL penalty of a completion, where the KL is part of the reward",
    "reward/*_weighted": "mean of this reward term times its weight",
    "reward/*": "mean of this reward term in training, before its weight",
    "scorer/*": "answers that the verifier could not work out, by reason",
    "time/rollout": "seconds of sampling",
    "time/score": "seconds of scoring",
    "time/*": "seconds",
}


def meaning(name: str) -> str:
    """One line about a metric; empty for one that is not r1's. The first pattern of ``MEANING`` that fits decides."""
    return next((text for pattern, text in MEANING.items() if fnmatchcase(name, pattern)), "")
