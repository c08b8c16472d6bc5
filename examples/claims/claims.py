"""The twelve claims, as data: what the paper says, what is measured for it here, and what decides.

Runs are named as in conf/experiment/claims.yaml. ``NOISE`` is how much worse "no worse" may be; ``LEVEL`` is the pass@1
that a faster rise has to reach; ``ONE_LANGUAGE`` is the bound that rejection sampling keeps answers at (2.3.3).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from examples.claims.effect import Effect, Mean, MetricAt, Reading, StepsTo

PASS, MAJ, LANGUAGE, FORMAT = "val/pass@1", "val/maj@16", "val/language", "val/format"
LENGTH, THINKING = "val/completion_length", "val/thinking_length"
NOISE, LEVEL, ONE_LANGUAGE = 0.02, 0.8, 0.95
MIDDLE = 20  # optimizer steps: half of the training


@dataclass(frozen=True)
class Curves:
    """Metrics over optimizer steps: {label: (step, metric)}."""

    title: str
    lines: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Dots:
    """Figures with their intervals beside each other."""

    title: str
    dots: dict[str, Reading]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        says: the claim, in a sentence.
        paper: the paper's figure and where it stands.
        about: what the verdict is about.
        shown: the runs whose completions are shown.
    """

    statement: str
    paper: str
    criterion: str
    effects: tuple[Effect, ...]
    plot: Curves | Dots
    shown: tuple[str, ...]

    @property
    def steps(self) -> list[str]:
        """The runs that it reads, each once."""
        drawn = [step for step, _ in self.plot.lines.values()] if isinstance(self.plot, Curves) else []
        drawn += [dot.step for dot in self.plot.dots.values()] if isinstance(self.plot, Dots) else []
        read = [reading.step for effect in self.effects for reading in effect.readings]
        return list(dict.fromkeys([*read, *drawn, *self.shown]))


def before(step: str, metric: str) -> MetricAt:
    """The metric before a run's first optimizer step."""
    return MetricAt(step, metric, "start")


def after(step: str, metric: str) -> MetricAt:
    """The metric after a run's last optimizer step."""
    return MetricAt(step, metric)


GROUPS = {
    2: "groups_of_2",
    4: "groups_of_4",
    8: "zero",
    16: "groups_of_16",
    32: "groups_of_32",
}  # of conf/experiment/claims.yaml, by their size

CLAIMS = (
    Claim(
        "RL alone, with no SFT before it, makes reasoning emerge.",
        "AIME pass@1 15.6 -> 71.0 % (fig. 2)",
        "held-out pass@1 at least doubles",
        (Effect("pass@1, after / before", after("zero", PASS), before("zero", PASS), operator.truediv, above=2.0),),
        Curves("held-out pass@1", {"R1-Zero": ("zero", PASS)}),
        ("zero",),
    ),
    Claim(
        "Thinking gets longer by itself.",
        "from hundreds to thousands of tokens (fig. 3)",
        "completions get longer, and no reward is for length",
        (
            Effect("tokens in a completion, after - before", after("zero", LENGTH), before("zero", LENGTH), above=0),
            Effect("tokens of thinking, after - before", after("zero", THINKING), before("zero", THINKING), above=0),
        ),
        Curves("tokens", {"completion": ("zero", LENGTH), "thinking": ("zero", THINKING)}),
        ("zero",),
    ),
    Claim(
        "A majority vote adds to it.",
        "AIME 71.0 -> 86.7 % by cons@64 (table 2)",
        "in the middle of training, maj@16 is above pass@1",
        (Effect("maj@16 - pass@1, half-way", MetricAt("zero", MAJ, MIDDLE), MetricAt("zero", PASS, MIDDLE), above=0),),
        Curves("share right", {"maj@16": ("zero", MAJ), "pass@1": ("zero", PASS)}),
        ("zero",),
    ),
    Claim(
        "R1-Zero mixes languages and is hard to read.",
        "no figure (2.2.4)",
        f"language consistency stays below {ONE_LANGUAGE}, the bound at which rejection sampling keeps an answer",
        (
            Effect("language consistency, after", after("zero", LANGUAGE), below=ONE_LANGUAGE),
            Effect("language consistency, after - before", after("zero", LANGUAGE), before("zero", LANGUAGE)),
        ),
        Curves("language consistency", {"R1-Zero": ("zero", LANGUAGE)}),
        ("zero",),
    ),
    Claim(
        "A small cold start before RL gives a readable form and a faster rise.",
        "no figure (2.3.1)",
        f"at step 0 form and consistency are better than the base's, and pass@1 {LEVEL} takes fewer RL steps",
        (
            Effect("form at step 0, with - without", before("rl", FORMAT), before("zero_language", FORMAT),
                   above=0),
            Effect("language consistency at step 0, with - without", before("rl", LANGUAGE),
                   before("zero_language", LANGUAGE), above=0),
            Effect(f"RL steps to pass@1 {LEVEL}, with - without", StepsTo("rl", PASS, LEVEL),
                   StepsTo("zero_language", PASS, LEVEL), below=0),
        ),
        Curves("held-out pass@1", {"with a cold start": ("rl", PASS), "without": ("zero_language", PASS)}),
        ("cold_start", "rl"),
    ),
    Claim(
        "A language-consistency reward fixes the mixing, at a small cost.",
        "a slight degradation, no figure (2.3.2)",
        f"consistency passes {ONE_LANGUAGE}; the difference in pass@1 is reported, whatever its sign",
        (
            Effect("language consistency, with the reward", after("zero_language", LANGUAGE), above=ONE_LANGUAGE),
            Effect("language consistency, with - without", after("zero_language", LANGUAGE), after("zero", LANGUAGE),
                   above=0),
            Effect("pass@1, with - without", after("zero_language", PASS), after("zero", PASS)),
        ),
        Curves("language consistency", {"with its reward": ("zero_language", LANGUAGE), "without": ("zero", LANGUAGE)}),
        ("zero_language", "zero"),
    ),
    Claim(
        "Rejection sampling from the RL checkpoint, then SFT of the base on it, keeps the quality.",
        "no figure of its own (2.3.3)",
        f"pass@1 after that SFT is not {NOISE} or more below the checkpoint's",
        (Effect("pass@1, SFT on what was kept - RL checkpoint", after("kept", PASS), after("rl", PASS), above=-NOISE),),
        Dots("held-out pass@1", {"base": before("kept", PASS), "RL checkpoint": after("rl", PASS),
                                 "SFT on what was kept": after("kept", PASS)}),
        ("kept",),
    ),
    Claim(
        "A second RL over all scenarios, with a learned preference where there is no gold answer, helps there and "
        "costs no maths.",
        "no figure of its own (2.3.4)",
        f"the open-ended score rises, and pass@1 on maths does not fall by {NOISE} or more",
        (
            Effect("open-ended score, after - before", after("rl_all", "val/reward/tiny_open"),
                   before("rl_all", "val/reward/tiny_open"), above=0),
            Effect("pass@1 on maths, after - before", after("rl_all", "val/maths/pass@1"),
                   before("rl_all", "val/maths/pass@1"), above=-NOISE),
        ),
        Dots("before and after the second RL", {
            "open, before": before("rl_all", "val/reward/tiny_open"),
            "open, after": after("rl_all", "val/reward/tiny_open"),
            "maths, before": before("rl_all", "val/maths/pass@1"),
            "maths, after": after("rl_all", "val/maths/pass@1"),
        }),
        ("rl_all",),
    ),
    Claim(
        "Distilling into a smaller model beats RL on that smaller model.",
        "AIME 72.6 against 47.0 % (table 6)",
        "after as many optimizer steps on as many completions, the distilled small model is better",
        (Effect("pass@1, distilled - RL", after("small_distilled", PASS), after("small_rl", PASS), above=0),),
        Dots("held-out pass@1 of the smaller model", {"base": before("small_rl", PASS),
             "RL": after("small_rl", PASS), "distilled": after("small_distilled", PASS)}),
        ("small_distilled", "small_rl"),
    ),
    Claim(
        "A student can be distilled on questions that it asks itself.",
        "no figure",
        f"with as many answers of the teacher, pass@1 is not {NOISE} or more below that of the dataset's questions",
        (
            Effect("pass@1, own - dataset's questions", after("asked_by_student", PASS), after("asked", PASS),
                   above=-NOISE),
            Effect("pass@1, own questions, after - before", after("asked_by_student", PASS),
                   before("asked_by_student", PASS), above=0),
        ),
        Dots("held-out pass@1", {"base": before("asked", PASS), "dataset's questions": after("asked", PASS),
                                 "own questions": after("asked_by_student", PASS)}),
        ("asked_by_student",),
    ),
    Claim(
        "A policy learns from the best answer of each group alone.",
        "no figure",
        "pass@1 rises; the difference to group-relative advantages is reported, whatever its sign",
        (
            Effect("pass@1, after - before", after("best_of_group", PASS), before("best_of_group", PASS), above=0),
            Effect("pass@1, best of group - group-relative", after("best_of_group", PASS), after("zero", PASS)),
        ),
        Dots("held-out pass@1", {"base": before("zero", PASS), "best of group": after("best_of_group", PASS),
                                 "group-relative": after("zero", PASS)}),
        ("best_of_group",),
    ),
    Claim(
        "Larger groups are better, at equal completions per step.",
        "G = 16, no comparison",
        "pass@1 with G = 32 is above that with G = 2; the shares of groups without signal are reported",
        (
            Effect("pass@1, G = 32 - G = 2", after(GROUPS[32], PASS), after(GROUPS[2], PASS), above=0),
            *(Effect(f"share of groups without signal, G = {size}", Mean(step, "train/frac_zero_std"))
              for size, step in GROUPS.items()),
        ),
        Dots("held-out pass@1", {f"G = {size}": after(step, PASS) for size, step in GROUPS.items()}),
        ("groups_of_2", "groups_of_32"),
    ),
)  # fmt: skip
