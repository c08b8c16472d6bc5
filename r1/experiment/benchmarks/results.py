"""The results of a benchmark pipeline's steps, and their paired differences from those of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from r1.core import jsonl
from r1.core.errors import DATA, UserError
from r1.core.manifest import FILE, load_manifest
from r1.core.outputs import SAMPLES
from r1.core.runs import RunRecord, read_run
from r1.core.statistics import Estimate, mean

Accuracies = dict[tuple[int, str], float]  # by the index and the text of a question: the share of its right completions


@dataclass(frozen=True)
class BenchmarkResult:
    """A line of the table.

    Attributes:
        name: the step, or a value such as ``level=3`` of its questions.
        questions: with a gold answer.
        majority: maj@k for the largest k; None where k is 1.
        k: that k, else 1.
        baseline, difference: pass@1 of the other model, and the mean over questions of this model's share of right
            completions less the other's; None without it.
        parts: the same for the values of the step's columns.
    """

    name: str
    questions: int
    pass_at_1: Estimate
    majority: Estimate | None = None
    k: int = 1
    lenient: Estimate | None = None
    greedy: Estimate | None = None
    truncated: Estimate | None = None
    length: Estimate | None = None
    baseline: Estimate | None = None
    difference: Estimate | None = None
    parts: list[BenchmarkResult] = field(default_factory=list)


def benchmark_runs(folder: Path) -> dict[str, RunRecord]:
    """The finished evaluations of a pipeline's record, by step.

    Raises:
        UserError: it is not the record of a pipeline.
    """
    manifest = load_manifest(folder / FILE) if (folder / FILE).is_file() else {}
    if "steps" not in manifest:
        message, hint = "this is not the record of a pipeline", "outputs/benchmarks/TIME of the other model"
        raise UserError(message, key=".baseline", value=str(folder), hint=hint, code=DATA)
    done = [step for step in manifest["steps"] if step["status"] in ("finished", "cached")]
    return {_name(step["name"], step.get("seed")): read_run(step["path"]) for step in done}


def _name(step: str, seed: int | None) -> str:
    return step if seed is None else f"{step}[{seed}]"


def results(runs: Mapping[str, RunRecord], others: Mapping[str, RunRecord]) -> list[BenchmarkResult]:
    """One result for each step; ``others`` are the other model's."""
    return [_result(name, run, others.get(name)) for name, run in runs.items() if "val/pass@1" in final_metrics(run)]


def final_metrics(run: RunRecord) -> dict[str, Estimate]:
    """Of the last validation of a record."""
    return {name: Estimate(**fields) for name, fields in run.manifest["metrics"]["final"].items()}


def _result(name: str, run: RunRecord, other: RunRecord | None) -> BenchmarkResult:
    final, others = final_metrics(run), final_metrics(other) if other else {}
    num_samples = int(run.config["val"]["num_samples"])
    k = max((int(metric.partition("@")[2]) for metric in final if metric.startswith("val/maj@")), default=1)

    def of(label: str, group: str) -> BenchmarkResult:
        metric = f"val/{group}pass@1"
        return BenchmarkResult(label, final[metric].n // num_samples, final[metric], baseline=others.get(metric))

    groups = [metric.split("/")[1] for metric in final if metric.count("/") == 2 and metric.endswith("/pass@1")]
    return replace(
        of(name, ""),
        majority=final.get(f"val/maj@{k}"),
        k=k,
        lenient=final.get("val/lenient"),
        greedy=final.get("val/greedy"),
        truncated=final.get("val/truncated"),
        length=final.get("val/completion_length"),
        difference=paired_difference(run, other) if other else None,
        parts=[of(group, f"{group}/") for group in groups],
    )


def paired_difference(run: RunRecord, other: RunRecord, *, greedy: bool = False) -> Estimate | None:
    """The mean difference over the questions of both, of sampled or greedy completions; None: they share none."""
    own, others = accuracies(run, greedy=greedy), accuracies(other, greedy=greedy)
    differences = [own[question] - others[question] for question in own if question in others]
    return mean(differences, 1) if differences else None


def accuracies(run: RunRecord, *, greedy: bool = False) -> Accuracies:
    """From the sampled or the greedy completions of a record; empty if its file is gone."""
    file, verdicts = run.dir / SAMPLES, dict[tuple[int, str], list[bool]]()
    for line in jsonl.read_rows(file) if file.is_file() else []:
        if "index" in line and line.get("greedy", False) == greedy and line["correct"] is not None:
            verdicts.setdefault((line["index"], line["prompt"]), []).append(line["correct"])
    return {question: sum(right) / len(right) for question, right in verdicts.items()}
