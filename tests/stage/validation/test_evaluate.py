"""The figures against numbers worked out by hand, brute force, and a run's own samples."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from r1.core.content_hash import file_hash
from r1.core.errors import UserError
from r1.core.metrics import primary_metric
from r1.core.model_paths import resolve_model_path
from r1.core.statistics import mean, proportion
from r1.rollout.base import Rollout
from r1.rollout.transformers import Transformers
from r1.run import execute
from r1.stage.validation.metrics import Sample, maj_at_k, pass_at_k, reward_estimate, sample_metrics
from r1.stage.validation.sampling import SampledCount, sample_validation
from r1.stage.validation.summary import prompt_groups


def test_pass_at_k_matches_hand_computation() -> None:
    assert [pass_at_k(1, 4, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert pass_at_k(2, 4, 2) == pytest.approx(1 - 1 / 6)
    assert [pass_at_k(0, 8, k) for k in (1, 8)] == [0.0, 0.0]
    assert [pass_at_k(8, 8, k) for k in (1, 8)] == [1.0, 1.0]


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.integers(1, 7))
def test_pass_at_k_matches_mean_over_all_subsets(correct: list[bool], k: int) -> None:
    k = min(k, len(correct))
    by_force = fmean(any(chosen) for chosen in combinations(correct, k))
    assert pass_at_k(sum(correct), len(correct), k) == pytest.approx(by_force)


def test_maj_at_k_matches_hand_computation() -> None:
    answers, correct = ["8", "8", "9", None], [True, True, False, False]
    assert maj_at_k(answers, correct, 4) == 1.0
    assert maj_at_k(answers, correct, 2) == 0.5  # (8, 8) is right, (9, nothing) is wrong
    assert maj_at_k(answers, correct, 3) == 1.0  # one whole block
    assert maj_at_k(["9", "9", "8"], [False, False, True], 3) == 0.0


def test_maj_at_k_tie_scores_expected_value() -> None:
    assert maj_at_k(["8", "9"], [True, False], 2) == 0.5
    assert maj_at_k(["7", "8", "9"], [False, True, False], 3) == pytest.approx(1 / 3)


def test_maj_at_k_ignores_samples_without_answer() -> None:
    assert maj_at_k([None, None, "8"], [False, False, True], 3) == 1.0
    assert maj_at_k([None, None], [False, False], 2) == 0.0


def test_maj_at_1_is_accuracy() -> None:
    assert maj_at_k(["8", "9", None, "8"], [True, False, False, True], 1) == 0.5


@pytest.mark.parametrize(
    ("scores", "num_samples", "low", "high"),
    [
        ([1.0] * 5 + [0.0] * 5, 1, 0.23659, 0.76341),  # Wilson, 5 of 10
        ([0.0] * 10, 1, 0.0, 0.27753),  # z^2 / (n + z^2)
        ([1.0] * 10, 8, 0.72247, 1.0),  # all right: the size is P, not P n
        ([1.0, 0.0, 0.5, 0.5], 2, 0.18762, 0.81238),  # effective size 0.25 / (0.5 / 3 / 4) = 6
        ([1.0, 0.0, 1.0, 0.0], 8, 0.15004, 0.84996),  # samples of a prompt all alike: size P = 4
        ([0.5, 0.5, 0.4, 0.6], 2, 0.21521, 0.78479),  # prompts all alike: size P n = 8
        ([0.5], 2, 0.05462, 0.94538),  # one prompt: size 1
    ],
)
def test_proportion_interval_matches_hand_computation(
    scores: list[float], num_samples: int, low: float, high: float
) -> None:
    found = proportion(scores, num_samples)
    assert found.value == pytest.approx(fmean(scores))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))
    assert found.n == len(scores) * num_samples


@given(st.lists(st.integers(0, 4).map(lambda c: c / 4), min_size=1, max_size=30))
def test_proportion_interval_lies_in_0_to_1_around_its_value(scores: list[float]) -> None:
    found = proportion(scores, 4)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    assert found.high - found.low > 0.01


def test_mean_interval_matches_hand_computation() -> None:
    found = mean([10.0, 12.0, 17.0], 4)
    half = 1.959964 * stdev([10, 12, 17]) / math.sqrt(3)
    assert (found.value, found.n) == (13.0, 12)
    assert (found.low, found.high) == (pytest.approx(13 - half), pytest.approx(13 + half))


def test_sample_metrics_of_two_prompts_match_hand_computation() -> None:
    good, bare, bad = "<think>a</think><answer>8</answer>", "<answer> 8</answer>", "<answer>9</answer>"
    groups = [
        [
            Sample(good, 10, False, True, "8"),
            Sample(bare, 4, False, True, "8"),
            Sample(bad, 4, False, False, "9"),
            Sample("", 2, True, False, None),
        ],
        [Sample(bad, 6, False, False, "9")] * 4,
    ]
    expected = {
        "val/pass@1": 0.25,
        "val/pass@2": (5 / 6 + 0) / 2,
        "val/maj@2": (0.5 + 0) / 2,  # (8, 8) right, (9, nothing) wrong
        "val/pass@4": 0.5,
        "val/maj@4": 0.5,
        "val/completion_length": (5 + 6) / 2,
        "val/truncated": 0.125,
        "val/format": 0.125,
    }
    figures = sample_metrics(groups, [1, 2, 4])
    assert {name: figures[name].value for name in expected} == pytest.approx(expected)


# ---- a whole evaluation, recomputed from its samples ----

TOKENIZER = AutoTokenizer.from_pretrained(resolve_model_path("r1:tiny"))


def canned(self: Transformers, prompts: Sequence[list[int]], seeds: Any, stop_ids: set[int], poll: Any) -> Any:
    """An engine that answers sums in six ways, chosen by the seed."""

    def answer(prompt: list[int], seed: int) -> Rollout:
        total = sum(map(int, re.findall(r"\d+", TOKENIZER.decode(prompt))))
        text, closed = [
            (f"<think> so</think>\n<answer>{total}</answer>", True),
            (f"<answer>{total}</answer>", True),
            (f"<answer> {total + 1}</answer>", True),
            (f"<answer>{total}</answer><answer>{total}</answer>", True),
            ("<think> hm", False),
            (f"<think> so so</think><answer>{total - 1}</answer>", True),
        ][seed % 6]
        ids = TOKENIZER(text).input_ids + [TOKENIZER.eos_token_id] * closed
        return Rollout(prompt, ids, [-1.0] * len(ids), truncated=not closed)

    return [[answer(prompt, seed) for seed in group] for prompt, group in zip(prompts, seeds, strict=True)]


def voted(answers: list[str | None], gold: str) -> float:
    votes = Counter(a for a in answers if a).most_common()
    winners = [answer for answer, count in votes if count == votes[0][1]]
    return winners.count(gold) / len(winners) if winners else 0.0


def by_hand(lines: list[dict[str, Any]], n: int, k: int) -> dict[str, float]:
    """The figures of a validation from the lines of samples.jsonl, without r1."""
    groups = [lines[i : i + n] for i in range(0, len(lines), n)]
    found = {"pass@1": [], "pass@k": [], "maj@k": [], "format": [], "accuracy": []}
    for group in groups:
        gold = group[0]["answer"]
        tagged = [re.findall(r"<answer>\s*(\d+)</answer>", line["completion"]) for line in group]
        answers = [found[0] if len(found) == 1 else None for found in tagged]
        right = [answer == gold for answer in answers]
        assert right == [line["correct"] for line in group]
        strict = [bool(re.fullmatch(r"<think>[^<]+</think>\s*<answer>[^<]+</answer>", x["completion"])) for x in group]
        found["pass@1"].append(fmean(right))
        found["accuracy"].append(fmean(line["rewards"]["accuracy"] for line in group))
        found["format"].append(fmean(strict))
        found["pass@k"].append(fmean(any(chosen) for chosen in combinations(right, k)))
        found["maj@k"].append(fmean(voted(answers[i : i + k], gold) for i in range(0, n, k)))
    return {name: fmean(values) for name, values in found.items()}


def test_eval_run_metrics_match_its_recorded_samples(
    config: Callable[..., dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transformers, "generate", canned)
    knobs = ["val.num_prompts=8", "val.num_samples=6", "val.ks=[1,3]", "model.config.hidden_size=32"]
    execute(config("stage=eval", "model=scratch", "trainer.accelerator=cpu", f"output_dir={folder}", *knobs), [])
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    (row,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 8 * 6
    assert len({line["prompt"] for line in lines}) == 8
    hand = by_hand(lines, n=6, k=3)
    assert 0 < hand["pass@1"] < hand["pass@k"] <= 1
    assert 0 < hand["maj@k"] < 1
    assert row["val/pass@1"] == pytest.approx(hand["pass@1"])
    assert row["val/reward/accuracy"] == pytest.approx(hand["accuracy"])
    assert row["val/pass@3"] == pytest.approx(hand["pass@k"])
    assert row["val/maj@3"] == pytest.approx(hand["maj@k"])
    assert row["val/format"] == row["val/reward/format"] == pytest.approx(hand["format"])
    assert row["val/truncated"] == pytest.approx(fmean(line["completion"] == "<think> hm" for line in lines))
    assert row["val/completion_length"] == pytest.approx(
        fmean(len(TOKENIZER(line["completion"]).input_ids) + (not line["truncated"]) for line in lines)
    )
    manifest = json.loads((folder / "manifest.json").read_text())["metrics"]["final"]
    assert {name: figure["value"] for name, figure in manifest.items()} == {k: v for k, v in row.items() if k != "step"}
    thought = sum("<think>" in line["completion"] for line in lines)
    assert {name: figure["n"] for name, figure in manifest.items() if figure["n"] != 48} == {"val/language": thought}
    thinking = [line["completion"].partition("<think>")[2].partition("</think>")[0] for line in lines]
    assert row["val/thinking_length"] == pytest.approx(fmean(len(TOKENIZER(text).input_ids) for text in thinking))


def test_eval_keeps_every_completion_of_every_prompt_with_its_verdict(
    config: Callable[..., dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 prompts, two at a time: 12 x 6 sampled completions, and one greedy completion of each prompt."""
    monkeypatch.setattr(Transformers, "generate", canned)
    knobs = ["val.num_prompts=12", "val.num_samples=6", "val.ks=[1,3]", "val.greedy=true", "rollout.batch_size=12"]
    knobs += ["model=scratch", "model.config.hidden_size=32", "trainer.accelerator=cpu", f"output_dir={folder}"]
    execute(config("stage=eval", *knobs), [])
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [p for p in range(12) for _ in range(7)]
    sampled, greedy = ([x for x in lines if ("greedy" in x) == marked] for marked in (False, True))
    assert [x["correct"] for x in sampled] == [
        re.findall(r"<answer>\s*(\d+)</answer>", x["completion"]) == [x["answer"]] for x in sampled
    ]
    manifest = json.loads((folder / "manifest.json").read_text())
    final = {name: figure["value"] for name, figure in manifest["metrics"]["final"].items()}
    assert final["val/pass@1"] == pytest.approx(fmean(x["correct"] for x in sampled))
    assert final["val/greedy"] == fmean(x["correct"] for x in greedy) == 1.0  # a greedy completion has seed 0: right
    assert manifest["metrics"]["final"]["val/greedy"]["n"] == 12
    rows = [json.loads(x["row"]) for x in lines if "row" in x]
    assert [row["prompt"] for row in rows] == [x["prompt"] for x in greedy]
    assert manifest["outputs"] == {"samples.jsonl": file_hash(folder / "samples.jsonl")}


def test_validation_may_have_another_verifier_than_the_reward(
    config: Callable[..., dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are sums or off by one: the lenient verifier of validation takes both, the reward's only the sums."""
    monkeypatch.setattr(Transformers, "generate", canned)
    monkeypatch.setattr(close, "__module__", "conftest")
    monkeypatch.setattr("conftest.close", close, raising=False)
    knobs = ["val.num_prompts=8", "val.num_samples=6", "val.ks=[1]", "model=scratch", "model.config.hidden_size=32"]
    knobs += ["trainer.accelerator=cpu", f"output_dir={folder}", "extensions=[conftest]"]
    node = {"_target_": "conftest.close", "_partial_": True}
    cfg = config("stage=eval", *knobs)
    cfg["val"]["verifier"] = node
    execute(cfg, [])
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    only = [x for x in lines if x["completion"].count("<answer>") == 1]
    assert all(x["correct"] for x in only)
    assert {x["rewards"]["accuracy"] for x in only} == {0.0, 1.0}


def close(answer: str, row: dict[str, Any]) -> bool:
    return abs(int(answer) - int(row["answer"])) <= 1


def test_validation_samples_are_the_same_at_every_step(stage: Callable[..., Any]) -> None:
    made = stage("stage=eval")
    made.validation_step([0, 1], 0)
    first = made.validator.metrics
    made.trainer.global_step = 50
    made.validation_step([0, 1], 0)
    assert made.validator.metrics == first
    reported = made.trainer.callback_metrics["val/reward/low_ids"].item()
    assert reported == pytest.approx(first["val/reward/low_ids"].value)


@pytest.mark.parametrize("knobs", ["val.sampling.top_k=1", "val.sampling.min_p=1.0 val.sampling.temperature=0.3"])
def test_grpo_validates_by_knobs_of_its_own(stage: Callable[..., Any], knobs: str) -> None:
    """The filters leave the likeliest token alone, in validation and not in the rollouts."""
    made = stage("stage=grpo", *knobs.split())
    sampling = made.validation.sampling_like(made.engine.sampling)
    assert {**sampling, "top_k": 0, "min_p": 0.0, "temperature": 1.0} == made.engine.sampling
    (completions,) = sample_validation(made.sampler, made.run.ranks, made.validation, 0, [0, 1])
    groups = [completions.samples[:2], completions.samples[2:]]
    assert all(a.completion == b.completion for a, b in groups)
    rollouts = made.sampler.sample([made.data.val[0]], [[1, 2]])[0]
    assert rollouts[0].completion_ids != rollouts[1].completion_ids


@pytest.mark.parametrize("name", ["eval", "distill_on_policy", "rejection_sampling"])
def test_stages_that_sample_have_the_knobs_of_the_rollout(stage: Callable[..., Any], name: str) -> None:
    teacher = ["teacher=transformers", "teacher.path=r1:tiny"] if name == "distill_on_policy" else []
    made = stage(f"stage={name}", "rollout.top_k=3", "rollout.stop=['</answer>',e]", *teacher)
    assert made.engine.sampling["top_k"] == 3
    assert made.engine.stop_texts.texts == ["</answer>", "e"]


def test_question_without_gold_answer_is_left_out_of_correctness() -> None:
    """pass@1 of the two prompts with an answer: (1 + 0.5) / 2; the third counts for lengths and form only."""
    right, wrong, free = (Sample("<answer>1</answer>", 4, False, correct, "1") for correct in (True, False, None))
    groups = [[right, right], [right, wrong], [free, free]]
    figures = sample_metrics(groups, [2])
    assert (figures["val/pass@1"].value, figures["val/pass@1"].n) == (0.75, 4)
    assert figures["val/pass@2"].n == 4
    assert figures["val/completion_length"].n == 6
    assert not {"val/pass@1", "val/pass@2", "val/maj@2"} & sample_metrics(groups[2:], [2]).keys()
    assert primary_metric(figures) == "val/pass@1"
    assert primary_metric(sample_metrics(groups[2:], [2])) == "val/format"


def test_reward_estimate_leaves_out_missing_rewards() -> None:
    """Prompts: (1 + 0) / 2, 1 (the other sample has none), none: the mean of 0.5 and 1, of 4 samples."""
    figure = reward_estimate([1.0, 0.0, math.nan, 1.0, math.nan, math.nan], 2)
    assert figure is not None
    assert (figure.value, figure.n) == (0.75, 4)
    assert reward_estimate([math.nan, math.nan], 2) is None


def test_run_without_validation_at_its_start_has_that_of_its_end(
    small: Callable[..., dict[str, Any]], folder: Path
) -> None:
    execute(small("stage=grpo", "val.at_start=false", "trainer.max_steps=2", f"output_dir={folder}"), [])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["metrics"]["start"] == {}
    assert manifest["metrics"]["final"]["val/pass@1"]["n"] == 4
    assert manifest["best"]["step"] == 2  # the first validation is the best so far
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/completion_length" in line] == [2]


def test_eval_without_validation_at_its_start_is_refused(small: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="and nothing else") as raised:
        execute(small("stage=eval", "val.at_start=false"), [])
    assert "val.at_start" in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "prompts"),
    [
        ([], 128),
        (["val.num_samples=32", "val.ks=[1]"], 128),
        (["model/recipe=1_5b"], 128),  # 128 x 8 x 2,048 = 2,097,152
        (["rollout.max_completion_length=4096"], 64),
        (["rollout.max_completion_length=32768"], 8),
        (["rollout.max_completion_length=32768", "val.num_samples=64"], 1),
        (["rollout.max_completion_length=1000000"], 1),
        (["rollout.max_completion_length=32768", "val.num_prompts=500"], 500),
    ],
)
def test_default_number_of_prompts_follows_from_a_token_budget(
    config: Callable[..., dict[str, Any]], overrides: list[str], prompts: int
) -> None:
    assert config("stage=eval", *overrides)["val"]["num_prompts"] == prompts


def test_prompts_are_grouped_by_part_and_by_the_values_of_columns() -> None:
    rows = [{"level": 1}, {"level": 3, "topic": "a/b"}, {"level": 1, "topic": "c"}, {"level": None}]
    by_level = {"level=1": [0, 2], "level=3": [1]}
    assert prompt_groups(rows, (), ["level"]) == by_level
    assert prompt_groups(rows, (), ["topic", "level"]) == by_level | {"topic=a_b": [1], "topic=c": [2]}
    parts = [row | {"part": part} for row, part in zip(rows, "yxyx", strict=True)]
    assert list(prompt_groups(parts, ["y", "x", "z"], ["level"])) == ["y", "x", "level=1", "level=3"]


def test_eval_measures_each_value_of_a_column(
    config: Callable[..., dict[str, Any]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transformers, "generate", canned)
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{n}+4=?", "answer": str(n + 4), "level": n % 2} for n in range(1, 8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    knobs = ["data=dataset", f"data.path={file}", "val.num_samples=6", "val.ks=[1]", "val.by=[level]"]
    knobs += ["model=scratch", "model.config.hidden_size=32", "trainer.accelerator=cpu", f"output_dir={folder}"]
    execute(config("stage=eval", *knobs), [])
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    final = json.loads((folder / "manifest.json").read_text())["metrics"]["final"]
    for level, count in ((0, 3), (1, 4)):
        own = [x["correct"] for x in lines if (int(x["answer"]) - 4) % 2 == level]
        assert final[f"val/level={level}/pass@1"]["value"] == pytest.approx(fmean(own))
        assert final[f"val/level={level}/pass@1"]["n"] == len(own) == 6 * count
    assert sorted(name for name in final if "level=" in name) == ["val/level=0/pass@1", "val/level=1/pass@1"]
    with pytest.raises(UserError, match="no held-out row has a column `lvel`"):
        execute(config("stage=eval", *knobs[:-1], "val.by=[lvel]"), [])


def test_sampled_count_never_falls_over_calls_and_parts() -> None:
    """Two parts of 4 sampled and 2 greedy completions; a call may end without a report of its last ones."""
    count = SampledCount()
    assert [count.during_call(n) for n in (0, 1, 3)] == [0, 1, 3]
    assert [count.during_call(n) for n in (0, 2)] == [3, 5]  # the greedy call
    count.add_part(6)
    assert [count.during_call(n) for n in (1, 4, 1)] == [7, 10, 11]


def test_embedded_engine_reports_each_finished_completion(stage: Callable[..., Any]) -> None:
    made, counts = stage("stage=eval", "rollout.batch_size=2"), []
    with made.sampler.reporting(counts.append):
        groups = made.sampler.sample([made.data.val[i] for i in range(3)], [[1, 2], [3, 4], [5, 6]])
    ends = [not rollout.truncated for group in groups for rollout in group]
    assert counts == sorted(counts)
    assert counts[-1] == 4 + sum(ends[4:])
    made.sampler.sample([made.data.val[0]], [[1]])
    assert counts[-1] == 4 + sum(ends[4:])  # no report outside the block
