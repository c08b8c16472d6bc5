"""Thirty hand-made faults, each a plausible slip. ``make mutants`` says which of them the tests notice.

The text of a mutant is short, so that it survives renames, and occurs once in its file (test_mutants.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """In ``file``, ``old`` becomes ``new``.

    Attributes:
        reason: the fault that it stands for.
        also: folders or files of tests/ that cover it, besides the package's own folder.
    """

    file: str
    old: str
    new: str
    reason: str
    also: tuple[str, ...] = ()


OBJECTIVE = "r1/stage/rl/objective.py"
LOSS = "r1/stage/loss/"
ADVANTAGE = "r1/stage/advantage/"
PACKING = "r1/model/packing.py"
MUTANTS = [
    # the loss
    Mutant(LOSS + "base.py", "(1 - clip.low, 1 + clip.high)", "(1 - clip.high, 1 + clip.low)", "clip bounds swapped"),
    Mutant(LOSS + "base.py", "-torch.minimum(gain", "-torch.maximum(gain", "the optimistic bound instead of the lower"),
    Mutant("r1/stage/rl/experience.py", "num_tokens=global_sum(device_tokens)", "num_tokens=device_tokens",
           "normaliser of the device, not of the step"),
    Mutant(LOSS + "grpo.py", "mask.sum(1, keepdim=True)", "mask.sum()", "length of a micro-batch"),
    Mutant(LOSS + "gspo.py", "mask.sum(1, keepdim=True).clamp(min=1)", "mask.shape[1]", "padding in the ratio"),
    Mutant(LOSS + "cispo.py", "logps.detach()", "logps", "a gradient through the importance weight"),
    Mutant("r1/stage/importance/token.py", ".exp().clamp(max=cap)", ".exp()", "importance weights without their bound"),
    Mutant(OBJECTIVE, "+ self.kl_coef * kl if", "- self.kl_coef * kl if", "pushed away from the reference"),
    Mutant(OBJECTIVE, "loss - weight", "loss + weight", "the entropy bonus punishes entropy"),
    # credit
    Mutant(ADVANTAGE + "base.py", "keepdim=True) / (count - 1)", "keepdim=True) / count", "population's std"),
    Mutant(ADVANTAGE + "base.py", "return high > low", "return high >= low", "a group without signal has one"),
    Mutant(ADVANTAGE + "group.py", "(group_std(rewards) + epsilon)", "group_std(rewards).clamp(min=epsilon)", "eps"),
    Mutant(ADVANTAGE + "rloo.py", "* count / (count - 1)", "* (count - 1) / (count - 1)", "baseline includes itself"),
    Mutant("r1/reward/base.py", "[weight * value for", "[value for", "reward terms without their weights"),
    # log-probabilities
    Mutant("r1/model/functional.py", "    scaled = logits.float() / temperature", "    scaled = logits.float()",
           "training at another temperature than sampling"),
    Mutant("r1/model/functional.py", "gap = ref_logps - logps", "gap = logps - ref_logps", "k3 of the reverse KL"),
    Mutant("r1/model/functional.py", "uniform[:, None] *", "uniform[:1, None] *", "one random number per batch"),
    Mutant("r1/model/sequences.py", "device=device) < lengths", "device=device) <= lengths", "mask off by one"),
    Mutant(PACKING, "offsets[:, None] >= offsets", "offsets[:, None] > offsets", "a token does not see itself"),
    Mutant(PACKING, "columns < prompt_lengths[", "columns <= prompt_lengths[", "a completion sees a prompt's padding"),
    Mutant("r1/model/fused_logprobs.py", "logps + entropy[rows", "logps - entropy[rows", "gradient of the entropy"),
    # randomness, order, resume
    Mutant("r1/core/seeds.py", "map(str, parts)", "map(str, parts[:-1])", "samples of a group share their key",
           ("stage/test_grpo.py",)),
    Mutant("r1/core/seeds.py", "p // num_examples, num_examples)", "0, num_examples)", "every epoch in one order"),
    Mutant("r1/stage/training/loader.py", 'self.step = state["step"]', 'self.step = state["step"] + 1',
           "resume skips a step", ("train",)),
    Mutant("r1/stage/training/optimization.py", "(step + 1) / (warmup + 1)", "step / (warmup + 1)",
           "the first step of the warm-up does nothing"),
    Mutant("r1/train/checkpoint_files.py", "return _digest(checkpoint) ==", "return bool(_digest(checkpoint)) or",
           "a damaged checkpoint is loaded", ("stage/test_resume.py",)),
    # data and evaluation
    Mutant("r1/data/split.py", "is_train[val] = False", "is_train[val] = True", "held-out rows are trained on"),
    Mutant("r1/data/completion.py", "num_open == num_closed == 1", "num_open == num_closed >= 1",
           "of several answers the first counts", ("reward",)),
    Mutant("r1/data/verifier/countdown.py", 'used == sorted(row["numbers"])', 'set(used) <= set(row["numbers"])',
           "a number may be used twice, or not at all"),
    Mutant("r1/stage/validation/metrics.py",
           "math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)",
           "(1 - num_correct / num_samples) ** k", "the biased estimator of pass@k"),
]  # fmt: skip
