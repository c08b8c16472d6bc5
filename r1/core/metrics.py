"""The registry of metrics: the meaning, direction and presentation of every name in metrics.jsonl and in manifests.

To add a metric, compute it and register it here: the report, the sweeps and the progress line read this registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal

from r1.core.statistics import Estimate
from r1.core.types import Config

SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of metrics with the same meaning.

    Attributes:
        name: as it is logged; ``*`` stands for any text and makes it a family.
        meaning: one line for the report.
        unit: of the value; empty for a share, a score or a loss.
        better: the direction of improvement; None: neither.
        primary: rank among the metrics that a run is judged by, 0 first; its best checkpoint is chosen by the first.
        per_part: also computed for each part of a mixture, as ``val/<part>/...``.
        data_dependent: the data decides whether it is logged, so a config does not tell.
        scaled_by_reward: its scale changes with the weights of the reward terms.
        axis: fixed limits of its chart; None: those of its values.
        main_chart, tile, progress: drawn at once, shown large in the report, shown in the progress line.
    """

    name: str
    meaning: str
    _: KW_ONLY
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    primary: int | None = None
    per_part: bool = False
    data_dependent: bool = False
    scaled_by_reward: bool = False
    axis: tuple[float, float] | None = None
    main_chart: bool = False
    tile: bool = False
    progress: bool = False

    @property
    def is_family(self) -> bool:
        return "*" in self.name

    @property
    def label(self) -> str:
        """The name without its first part: ``pass@1`` for ``val/pass@1``."""
        return self.name.partition("/")[2]


# The first metric or family that matches a name describes it, and the report shows metrics in this order.
VALIDATION = (
    Metric("val/pass@1", "share of held-out completions whose answer is right", better="higher",
           primary=0, per_part=True, axis=SHARE, main_chart=True, tile=True, progress=True),
    Metric("val/greedy", "share of held-out prompts whose greedy completion is right", better="higher",
           per_part=True, axis=SHARE, main_chart=True, tile=True),
    Metric("val/lenient", "share of held-out completions whose answer is right, strictly or by data.reader",
           better="higher", per_part=True, axis=SHARE),
    Metric("val/pass@*", "chance that one of k completions is right, unbiased", better="higher", axis=SHARE),
    Metric("val/maj@*", "chance that the majority answer of k completions is right", better="higher",
           axis=SHARE, main_chart=True, tile=True),
    Metric("val/format", "share of completions in the strict form: thinking, then one answer, in their tags",
           primary=3, per_part=True, axis=SHARE, main_chart=True),
    Metric("val/language", "share of the thinking's words in its most frequent language, whatever that is",
           axis=SHARE, main_chart=True, tile=True),
    Metric("val/reflection", "reflective words (wait, mistake, however, ...) per completion", main_chart=True),
    Metric("val/thinking_length", "length of the text between the think tags", unit="tokens",
           main_chart=True, tile=True),
    Metric("val/completion_length", "length of a completion", unit="tokens", per_part=True),
    Metric("val/truncated", "share of completions that reached the length limit", axis=SHARE),
    Metric("val/pair_accuracy", "share of held-out pairs in which the reward model prefers the chosen answer",
           better="higher", primary=1, progress=True),
    Metric("val/loss", "Bradley-Terry loss of a reward model on held-out pairs", better="lower"),
    Metric("val/margin", "score of the chosen answer less that of the rejected one", better="higher"),
    Metric("val/reward", "mean weighted sum of the reward terms, where some questions have no gold answer",
           better="higher", primary=2, per_part=True, scaled_by_reward=True),
    Metric("val/reward/accuracy", "mean of this reward term, before its weight", better="higher"),
    Metric("val/reward/*", "mean of this reward term, before its weight"),
    Metric("val/scorer/*", "answers that the verifier could not evaluate, by reason", data_dependent=True),
)  # fmt: skip
PER_PART = tuple(
    replace(metric, name=f"val/*/{metric.label}",
            meaning=f"{metric.meaning}, for one part of a mixture or one value of val.by",
            primary=None, per_part=False, axis=None, main_chart=False, tile=False, progress=False)
    for metric in VALIDATION
    if metric.per_part
)  # fmt: skip
TRAINING = (
    Metric("train/reward", "mean weighted sum of the reward terms", better="higher", scaled_by_reward=True,
           main_chart=True, progress=True),
    Metric("train/reward_std", "standard deviation of the reward inside a group", scaled_by_reward=True),
    Metric("train/entropy", "entropy of the next token, mean over tokens", unit="nats", main_chart=True),
    Metric("train/frac_zero_std", "share of groups whose rewards are all equal: no signal", axis=SHARE,
           main_chart=True),
    Metric("train/kl", "KL from the policy to the reference, per token", unit="nats", main_chart=True),
    Metric("train/loss", "the loss that is minimised, over the whole optimizer step", better="lower",
           scaled_by_reward=True, main_chart=True, progress=True),
    Metric("train/completion_length", "length of a training completion", unit="tokens"),
    Metric("train/truncated", "share of training completions that reached the length limit"),
    Metric("train/language", "share of the thinking's words in its most frequent language"),
    Metric("train/reflection", "reflective words per training completion"),
    Metric("train/resampled", "share of groups without signal that were drawn again"),
    Metric("train/clip_frac", "share of tokens whose ratio is clipped"),
    Metric("train/importance", "importance weight of a token where the engine is corrected for, mean over tokens"),
    Metric("train/entropy_coef", "adapted weight of the entropy bonus"),
    Metric("train/logprob_gap", "mean distance of the engine's log-probabilities from the trainer's",
           unit="nats"),
    Metric("train/weights_lag", "age of the weights that sampled the batch", unit="optimizer steps"),
    Metric("train/grad_norm", "norm of the gradient before it is clipped"),
    Metric("train/lr", "learning rate"),
    Metric("train/divergence", "divergence of the student from its teacher, per token", unit="nats",
           better="lower"),
    Metric("train/pair_accuracy", "share of training pairs in which the reward model prefers the chosen answer",
           better="higher"),
    Metric("train/total_tokens", "completions sampled since the start", unit="tokens"),
    Metric("train/num_tokens", "targets of the optimizer step", unit="tokens"),
    Metric("reward/kl", "KL penalty of a completion, where the KL is part of the reward"),
    Metric("reward/*_weighted", "mean of this reward term times its weight", scaled_by_reward=True),
    Metric("reward/*", "mean of this reward term in training, before its weight"),
    Metric("data/*", "rows that were left out or changed before the start, by reason", data_dependent=True),
    Metric("scorer/*", "answers that the verifier could not evaluate, by reason", data_dependent=True),
    Metric("rejection/pass_rate", "mean share of right answers to a question", better="higher",
           data_dependent=True),
    Metric("rejection/frac_unsolved", "share of questions without a right answer", better="lower",
           data_dependent=True),
    Metric("rejection/*", "number of the model's own answers, by outcome", data_dependent=True),
    Metric("questions/written", "questions that the student wrote", data_dependent=True),
    Metric("questions/*", "share of the student's questions that were rejected, by reason",
           data_dependent=True),
    Metric("distill/*", "number of the teacher's answers, by outcome", data_dependent=True),
    Metric("time/rollout", "time for sampling", unit="seconds", data_dependent=True),
    Metric("time/score", "time for scoring", unit="seconds", data_dependent=True),
    Metric("time/*", "time", unit="seconds", data_dependent=True),
)  # fmt: skip
METRICS = (*VALIDATION, *PER_PART, *TRAINING)
PRIMARY_METRICS = tuple(
    metric.name for metric in sorted(METRICS, key=lambda metric: metric.primary or 0) if metric.primary is not None
)


@cache
def metric_named(name: str) -> Metric:
    """The registered metric or family of a name; a bare one, without a meaning, for a metric that is not r1's."""
    return next((metric for metric in METRICS if fnmatchcase(name, metric.name)), Metric(name, ""))


def meaning(name: str) -> str:
    """One line about a metric, with its unit; empty for one that is not r1's."""
    metric = metric_named(name)
    return f"{metric.meaning} ({metric.unit})" if metric.unit else metric.meaning


def display_order(name: str) -> tuple[int, str]:
    """Sort key of the report's tables and charts: the registry's order, metrics that are not r1's last."""
    metric = metric_named(name)
    return METRICS.index(metric) if metric in METRICS else len(METRICS), name


def logged_metrics(cfg: Config) -> list[str]:
    """The metrics that a run of this config may log, apart from those that depend on the data."""
    single = [m.name for m in METRICS if not m.is_family and not m.name.startswith("val/reward/")]
    of_k = [f"val/{kind}@{k}" for k in cfg["val"]["ks"] if k > 1 for kind in ("pass", "maj")]
    of_terms = [
        name
        for term in cfg["reward"]["terms"]
        for name in (f"val/reward/{term}", f"reward/{term}", f"reward/{term}_weighted")
    ]
    parts = cfg["data"].get("parts", {})
    return single + of_k + of_terms + [f"val/{part}/{m.label}" for part in parts for m in METRICS if m.per_part]


def sharpening(start: Mapping[str, Estimate], final: Mapping[str, Estimate]) -> str:
    """A note on each pass@k, k > 1, that is lower at the end where pass@1 is higher; empty if there is none.

    The policy then gives the answers that it had more often, and has fewer of them (Yue et al. 2025, 2504.13837).
    """
    both = [name for name in final if name.startswith("val/pass@") and name in start]
    changes = {name: round(final[name].value, 3) - round(start[name].value, 3) for name in both}  # as they are printed
    if not changes.get("val/pass@1", 0.0) > 0:
        return ""
    falls = [_change(name, start[name], final[name]) for name in both if changes[name] < 0]
    rise = f"pass@1 rose from {start['val/pass@1'].text} to {final['val/pass@1'].text}"
    return f"{rise}, but {', '.join(falls)}: sharper, not broader" if falls else ""


def _change(name: str, start: Estimate, final: Estimate) -> str:
    overlap = final.high is not None and start.low is not None and final.high >= start.low
    within = " (within the intervals)" if overlap else ""
    return f"{name.removeprefix('val/')} fell from {start.text} to {final.text}{within}"


def primary_metric(names: Iterable[str]) -> str:
    """The metric among ``names`` that a run is judged by; the most important one overall where none is among them."""
    present = set(names)
    return next((name for name in PRIMARY_METRICS if name in present), PRIMARY_METRICS[0])
