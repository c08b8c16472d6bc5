"""r1 rescore RECORD data/verifier=math: score the completions of an evaluation again, without a model."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from r1.core import jsonl, provenance
from r1.core.command import ArgumentParser, run_command
from r1.core.errors import DATA, STORAGE, UserError
from r1.core.outputs import SAMPLES, damaged_outputs
from r1.core.runs import RunRecord, errors_of, next_to, read_run, refuse_pipeline
from r1.core.types import Config

if TYPE_CHECKING:
    from r1.core.statistics import Estimate
    from r1.data.base import Row, Verifier
    from r1.data.lenient import Reading
    from r1.reward.base import Scores
    from r1.stage.validation.metrics import SampledAnswer
    from r1.stage.validation.sampling import ValidationCompletions

Answer = TypeVar("Answer", bound="SampledAnswer")
VERDICT_KEYS = re.compile(
    r"(data|data\.parts\.[^.]+|val)\.verifier(\.|$)|(data|data\.parts\.[^.]+)\.reader$|val\.(ks|by)$"
)
EXPECTED = "data/verifier=NAME, data.verifier.KEY=VALUE, +data/verifier@val.verifier=NAME, data.reader=NAME, val.ks=[K]"
UNSCORED = ("val/language", "val/reflection", "val/thinking_length")  # metrics that no verdict changes


def main() -> None:
    run_command(_main)


def _main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("record", help="the record of a finished stage=eval")
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help=f"what decides a verdict: {EXPECTED}")
    parser.add_argument("--output-dir", help="where the new record goes; default: RECORD with -rescored behind it")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # a model or dataset that is not there any more is not looked for on the Hub
    run = read_run(args.record)
    print(rescore(run, args.overrides, Path(args.output_dir or next_to(run.dir, "rescored"))))


def rescore(run: RunRecord, overrides: Sequence[str], folder: Path) -> Path:
    """Write the record that ``run`` would be with these overrides, and print both runs' metrics.

    Verdicts, votes and the reward terms that take the verifier are computed again. Other rewards are the record's.

    Raises:
        UserError: the record lacks completions, or an override sets what does not decide a verdict.
    """
    from r1.config.amend import amended
    from r1.config.check.config import check_schema
    from r1.config.check.rules import output, validation
    from r1.core.console import console, status_line
    from r1.core.statistics import Estimate
    from r1.train.progress import metrics_table

    groups = recorded_groups(run)
    changes = {"output_dir": str(folder), "resume": None, "dry_run": False}
    with errors_of(run.dir / "config.yaml"):
        check_schema(run.config)
    config = amended(run.config, overrides, VERDICT_KEYS, EXPECTED) | changes
    check_schema(config)
    validation(config)
    output(config)
    for difference in provenance.environment_changes(run.manifest, provenance.environment(config)):
        console.print(status_line(f"note: {difference}"))
    before = read_completions(groups, config)
    after = score(before, config)
    old = {name: Estimate(**fields) for name, fields in run.manifest["metrics"]["final"].items()}
    metrics = write_record(folder, run, config, overrides, after)
    console.print(metrics_table(old, metrics, "recorded", "rescored"))
    console.print(status_line(verdict_changes(before, after)))
    return folder.absolute()


# ---- the record ----


def recorded_groups(run: RunRecord) -> list[list[dict[str, Any]]]:
    """The lines of samples.jsonl by prompt.

    Raises:
        UserError: the run is no finished evaluation, or its file has changed since.
    """
    refuse_pipeline(run.dir, run.config)
    file = run.dir / SAMPLES
    if SAMPLES not in run.manifest.get("outputs", {}):
        state = run.manifest["status"] if run.manifest["status"] != "finished" else "a part of the completions only"
        hint = f"python -m r1.run stage=eval model.path={run.dir}"
        expected = "a finished record of stage=eval, which keeps every completion"
        message = f"this record does not have every completion: {state}"
        raise UserError(message, key="RECORD", value=str(run.dir), expected=expected, hint=hint, code=DATA)
    if not file.is_file() or damaged_outputs(run.dir, file):
        message = f"{file} is {'damaged' if file.is_file() else 'gone'}"
        hint = "evaluate the model again, in a new output_dir"
        raise UserError(message, key="RECORD", value=str(run.dir), hint=hint, code=STORAGE)
    return [list(lines) for _, lines in groupby(jsonl.read_rows(file), key=lambda line: line["index"])]


def read_completions(groups: Sequence[list[dict[str, Any]]], config: Config) -> ValidationCompletions:
    """The completions as they were recorded."""
    from r1.reward.base import Scores
    from r1.stage.validation.metrics import Sample, SampledAnswer
    from r1.stage.validation.sampling import ValidationCompletions

    def made(kind: type[Answer], line: dict[str, Any]) -> Answer:
        return kind(**{field.name: line[field.name] for field in fields(kind) if field.name in line})

    rows = recorded_rows(groups, config)
    lines = [line for group in groups for line in group]
    sampled = [line for line in lines if not line.get("greedy")]
    terms = config["reward"]["terms"]
    values = {name: [_number(line["rewards"][name]) for line in sampled] for name in terms}
    weights = {name: term["weight"] for name, term in terms.items()}
    return ValidationCompletions(
        indices=[group[0]["index"] for group in groups],
        rows=[row for row, group in zip(rows, groups, strict=True) for line in group if not line.get("greedy")],
        samples=[made(Sample, line) for line in sampled],
        scores=Scores(values, weights, [_number(line["reward"]) for line in sampled]),
        greedy=[made(SampledAnswer, line) for line in lines if line.get("greedy")],
        scoring_errors={},
    )


def recorded_rows(groups: Sequence[list[dict[str, Any]]], config: Config) -> list[Row]:
    """The row of each prompt; of a private question, which no record has, that of the dataset.

    Raises:
        UserError: the dataset does not have a private question any more.
    """
    from r1.config.build import build_data
    from r1.data.base import recorded
    from r1.data.store import DECODER

    rows: list[Row] = [DECODER.decode(lines[0]["row"]) for lines in groups]
    if any(lines[0].get("private") for lines in groups):
        known = {recorded(row)["prompt"]: row for row in build_data(config).val}
        if lost := [row["prompt"] for row in rows if row.get("private_question") and row["prompt"] not in known]:
            message, hint = f"the dataset does not have {lost[0]}", "the file or the revision that was evaluated"
            raise UserError(message, key="data", value=config["data"].get("path"), hint=hint, code=DATA)
        rows = [known[row["prompt"]] if row.get("private_question") else row for row in rows]
    return rows


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def write_record(
    folder: Path, run: RunRecord, config: Config, overrides: Sequence[str], after: ValidationCompletions
) -> dict[str, Estimate]:
    """Write the record of the evaluation with these verdicts; returns its metrics."""
    from r1.config.build import instantiate_node
    from r1.core.console import command_line
    from r1.core.statistics import Estimate
    from r1.stage.validation.summary import scored_metrics
    from r1.train.record import MetricsFile, Record

    final = run.manifest["metrics"]["final"]
    validation = instantiate_node(config["val"], "val", config)
    metrics = scored_metrics(after, config["data"].get("parts") or (), validation)
    metrics |= {name: Estimate(**final[name]) for name in UNSCORED if name in final}
    counts = {name: value for row in run.metrics for name, value in row.items() if name.startswith("data/")}
    counts |= {f"val/{name}": count for name, count in after.scoring_errors.items()}
    parents = provenance.find_parents(provenance.input_paths(config).values())
    earlier = [text for text in run.manifest["overrides"] if not text.startswith("output_dir=")]
    all_overrides, command = [*earlier, *overrides], command_line("r1.rescore")
    with Record(folder, config, all_overrides, command, run.manifest["data"], parents, resume=False) as record:
        record.devices = run.manifest["devices"]
        record.add_completions(0, after)
        MetricsFile(folder).log_metrics({name: metric.value for name, metric in metrics.items()} | counts, 0)
        record.start = record.final = metrics
    return metrics


# ---- the verdicts ----


def reward_verifier(config: Config) -> Verifier:
    """The dataset's verifier, which the reward terms take, without the dataset."""
    from r1.config.build import build_data, instantiate_node
    from r1.data.base import as_verifier
    from r1.data.mixture import MixtureVerifier

    def verifier(node: Config, key: str) -> Verifier:
        if "verifier" not in node:  # the dataset's code chooses it
            return build_data(config).verifier
        return as_verifier(instantiate_node(node["verifier"], f"{key}.verifier", config))

    if not (parts := config["data"].get("parts")):
        return verifier(config["data"], "data")
    return MixtureVerifier({name: verifier(node, f"data.parts.{name}") for name, node in parts.items()})


def score(before: ValidationCompletions, config: Config) -> ValidationCompletions:
    """The same completions with the verdicts of the config's verifiers."""
    from r1.config.build import instantiate_node
    from r1.config.check.components import check_answers
    from r1.data.base import as_verifier, has_answer
    from r1.data.rows import Rows
    from r1.stage.validation.sampling import lenient_verdicts, verdicts

    of_reward, validation = reward_verifier(config), instantiate_node(config["val"], "val", config)
    verifier = as_verifier(validation.verifier or of_reward)
    rows = before.rows[:: validation.num_samples]
    if answered := Rows.of(filter(has_answer, rows)):
        check_answers("data.verifier", of_reward, answered, str)
        if validation.verifier:
            check_answers("val.verifier", verifier, answered, str)
    texts = [sample.completion for sample in before.samples]
    right, ballots = verdicts(verifier, texts, before.rows, validation.num_samples)
    lenient = lenient_verdicts(verifier, texts, right, before.rows, [reader(row, config) for row in before.rows])
    samples = zip(before.samples, right, ballots, lenient, strict=True)
    texts = [answer.completion for answer in before.greedy]
    correct, _ = verdicts(verifier, texts, rows[: len(texts)], 1)
    return replace(
        before,
        samples=[replace(sample, correct=now, vote=vote, lenient=also) for sample, now, vote, also in samples],
        scores=score_terms(before, config, of_reward),
        greedy=[replace(answer, correct=right) for answer, right in zip(before.greedy, correct, strict=True)],
        scoring_errors={f"scorer/{name}": float(count) for name, count in verifier.pop_error_counts().items()},
    )


def reader(row: Row, config: Config) -> Reading:
    """The lenient reading of a row's dataset."""
    data = config["data"]
    node: Config = data["parts"][row["part"]] if data.get("parts") else data
    of_row: Reading = node["reader"]
    return of_row


def score_terms(before: ValidationCompletions, config: Config, verifier: Verifier) -> Scores:
    """The recorded rewards, with new values of the terms that take the verifier."""
    from r1.config.build import rewards
    from r1.data.conversation import question_text
    from r1.reward.base import Scores, weighted_sum

    nodes = {name: node for name, node in config["reward"]["terms"].items() if takes_verifier(node, config)}
    new = rewards(config | {"reward": {"terms": nodes}}).score(
        prompts=[question_text(row["prompt"]) for row in before.rows],
        completions=[sample.completion for sample in before.samples],
        rows=before.rows,
        verifier=verifier,
        completion_ids=[[] for _ in before.samples],  # only their text is recorded
        max_completion_length=config["rollout"]["max_completion_length"],
        truncated=[sample.truncated for sample in before.samples],
    )
    terms, weights = before.scores.terms | new.terms, before.scores.weights
    return Scores(terms, weights, [weighted_sum(terms, weights, b) for b in range(len(before.samples))])


def takes_verifier(node: Config, config: Config) -> bool:
    """Whether a reward term, a function or an object that is called, has a parameter for the verifier."""
    from r1.config.check.schema import resolve

    target = resolve(node["_target_"], "reward.terms", config["extensions"])
    function = target.__call__ if isinstance(target, type) else target
    return "verifier" in inspect.signature(function).parameters


def verdict_changes(before: ValidationCompletions, after: ValidationCompletions) -> str:
    """``37 of 1,152 verdicts changed: 30 are now right, 7 now wrong``."""
    pairs = [(old.correct, new.correct) for old, new in zip(before.samples, after.samples, strict=True)]
    pairs += [(old.correct, new.correct) for old, new in zip(before.greedy, after.greedy, strict=True)]
    changed = [now for then, now in pairs if now != then]
    text = f"{len(changed)} of {len(pairs):,} verdicts changed"
    return f"{text}: {changed.count(True)} are now right, {changed.count(False)} now wrong" if changed else text


if __name__ == "__main__":
    main()
