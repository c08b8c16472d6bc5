"""A run that is killed at any moment and resumed until it ends has the same result as an uninterrupted one."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from forkserver import KINDS, ForkServer, UninterruptedRuns, knobs, log
from killpoints import Point, resolve
from samerun import assert_same_run
from suites import long_but

pytestmark = pytest.mark.slow

KILLED = -9
MAX_KILLS = 3  # of one run at random moments; then it runs to the end
SEED = 20250
EVERY = (1, 1, 2, 4)  # steps between two checkpoints
RENAME, RMTREE, SAVE, LINK = "os:rename", "shutil:rmtree", "torch:save", "os:link"
APPEND, EXPORT, DECODE = (
    "r1.core.jsonl:append_rows",
    "r1.stage.base:export",
    "r1.rollout.decoding.token_sampler:TokenSampler.draw",
)
VALIDATE, REPORT = "r1.stage.base:Stage.validation_step", "r1.stage.training.base:TrainingStage.report_step"
ADD = "r1.stage.distillation.answer_cache:AnswerCache.add"
CLIP, SCORE = "r1.stage.training.base:TrainingStage.configure_gradient_clipping", "r1.reward.base:Rewards.score"
MANIFEST, ASK = "os:replace", "r1.teacher.procedural:Procedural.answer"
WRITE = "r1.stage.distillation.traces:write_traces"
GRPO, ON_POLICY = "r1.stage.grpo:Grpo", "r1.stage.distill_on_policy:DistillOnPolicy"

POINTS = {  # each run is killed at one point after the other; the resumed process is killed at the next
    "the beginning": (
        "grpo",
        Point("r1.core.provenance:write_sources"),
        Point(MANIFEST, match="manifest.json.tmp"),
        Point(MANIFEST, "after", match="manifest.json.tmp"),
        Point(DECODE, call=3),
        Point(APPEND, "torn", match="metrics.jsonl"),
        Point(APPEND, "torn", match="samples.jsonl"),
        Point(VALIDATE, "after"),
        Point(MANIFEST, call=2, match="manifest.json.tmp"),
        Point(MANIFEST, "after", call=2, match="manifest.json.tmp"),
    ),
    "a step with two passes": (
        "grpo",
        Point(DECODE, call=12),
        Point(SCORE, call=2),
        Point(APPEND, "torn", call=2, match="samples.jsonl"),
        Point(APPEND, "torn", match="timing.jsonl"),
        Point(f"{GRPO}.training_step", call=3),
        Point(CLIP, "after"),
        Point(REPORT),
        Point(APPEND, "torn", call=2, match="metrics.jsonl"),
        Point(RENAME, "after", match="step_000001"),  # between the passes
        Point(f"{GRPO}.training_step", call=3),
        Point(CLIP),
    ),
    "a checkpoint": (
        "kl",
        Point(SAVE),
        Point(SAVE, "torn"),
        Point("os:fsync", call=5),
        Point(RENAME, match="step_000001"),
        Point(RENAME, "after", match="step_000002"),
        Point(RMTREE, match="step_000001"),
        Point(RMTREE, "torn", match="step_000002"),
        Point(RMTREE, "after", match="step_000003"),
    ),
    "a validation and the best model": (
        "sft",
        Point(DECODE, call=12),
        Point(SCORE, "after", call=2),
        Point(APPEND, "torn", call=2, match="samples.jsonl"),
        Point(EXPORT, match="best"),
        Point(EXPORT, "torn", match="best"),
        Point(RENAME, match="best"),
        Point(RENAME, "after", match="best"),
    ),
    "a better best": (
        "grpo",
        Point(RENAME, "after", match="step_000002"),
        Point(RENAME, match="best.tmp.old"),
        Point(RENAME, "after", match="best.tmp.old"),
        Point(RMTREE, "torn", match="best.tmp.old"),
    ),
    "the end": (
        "sft",
        Point(RENAME, match="step_000006"),
        Point(EXPORT, match="run/model"),
        Point(EXPORT, "torn", match="run/model"),
        Point(MANIFEST, call=2, match="manifest.json.tmp"),
    ),
    "adapters, one checkpoint, and equal files": (
        "lora",
        Point(RENAME, match="step_000001"),
        Point(RENAME, "after", match="step_000002"),
        Point(RENAME, match="step_000002.tmp.old"),
        Point(RMTREE, "torn", match="step_000003"),
        Point(LINK, "after", match="best.tmp"),
        Point(MANIFEST, "after", match="best.tmp"),
    ),
    "the teacher": (
        "distill",
        Point(ASK, call=2),  # the first one is the check's
        Point(ADD),
        Point(ADD, "torn"),
        Point(ADD, "after"),
        Point(WRITE),
        Point(MANIFEST, match="traces.json.tmp"),
        Point(MANIFEST, match="traces.jsonl.tmp"),
        Point(MANIFEST, "after", match="traces.jsonl.tmp"),
        Point(APPEND, "torn", call=2, match="metrics.jsonl"),
    ),
    "the model's own answers": (
        "reject",
        Point(DECODE, call=12),  # after the validation
        Point(APPEND, "torn", match="traces/samples.jsonl"),
        Point(APPEND, "after", match="traces/samples.jsonl"),
        Point(SCORE, call=3),
        Point(APPEND, call=2, match="traces/samples.jsonl"),
        Point(MANIFEST, match="questions.jsonl.tmp"),
        Point("r1.stage.rejection_sampling:write_traces"),
        Point(MANIFEST, match="traces.json.tmp"),
        Point(MANIFEST, "after", match="traces.jsonl.tmp"),
    ),
    "prompts drawn again": (
        "resample",
        Point("r1.stage.rl.group_sampler:GroupSampler.sample", call=2),
        Point("r1.stage.rl.group_sampler:GroupSampler.resample", "after"),
        Point("r1.stage.grpo:select_trainable", call=2),
    ),
    "the next batch on its way": (
        "ahead",
        Point(RENAME, "after", match="step_000002"),
        Point("r1.rollout.serving.subprocess_sampler:SubprocessSampler.submit", "after", call=2),
    ),
    "the student's questions": (
        "direct",
        Point("r1.stage.distill_direct:DistillDirect.generate_questions"),
        Point(DECODE, call=4),
        Point(WRITE, match="questions.jsonl"),
        Point(MANIFEST, match="questions.json.tmp"),
        Point(MANIFEST, match="questions.jsonl.tmp"),
        Point(MANIFEST, "after", match="questions.jsonl.tmp"),
        Point(ADD, "torn"),
    ),
    "the teacher's distribution": (
        "on_policy",
        Point(DECODE, call=12),
        Point(f"{ON_POLICY}.training_step", call=2),
        Point(RENAME, "after", match="step_000001"),  # between the passes
        Point(f"{ON_POLICY}.training_step"),
        Point(f"{ON_POLICY}.rollouts", "after"),
    ),
    "a moving reference": (
        "kl",
        Point("r1.stage.rl.reference:Reference.sync", "after", call=3),
        Point(DECODE, call=5),
        Point(f"{GRPO}.logps_under"),
    ),
}

DEFAULT = ("the beginning", "a step with two passes", "a checkpoint", "a better best", "the end", "the teacher")
DEFAULT += ("adapters, one checkpoint, and equal files",)


@pytest.mark.parametrize("name", list(POINTS))
def test_kill_points_name_existing_functions(name: str) -> None:
    for point in POINTS[name][1:]:
        owner, attribute = resolve(point.target)
        assert callable(getattr(owner, attribute)), point


@pytest.mark.parametrize("name", long_but(DEFAULT, POINTS))
def test_run_killed_at_point_resumes_to_same_result(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, folder: Path, name: str
) -> None:
    kind, *points = POINTS[name]
    expected, _ = uninterrupted_run(kind)
    for i, point in enumerate(points):
        result = server.run(knobs(kind), folder, point, resume=i > 0)
        assert result.code == KILLED, f"{point} was not reached\n{log(folder)}"
    assert server.run(knobs(kind), folder, resume=True).code == 0, log(folder)
    assert_same_run(expected, folder)


def killed_at_random(server: ForkServer, overrides: list[str], folder: Path, seconds: float, rng: random.Random) -> int:
    """Run to the end through at most ``MAX_KILLS`` kills; how many there were."""
    for kills in range(MAX_KILLS + 1):
        delay = rng.uniform(0, seconds) if kills < MAX_KILLS else None
        result = server.run(overrides, folder, resume=True, delay=delay)
        if result.code != KILLED:
            assert result.code == 0, log(folder)
            return kills
        print(f"  killed after {result.seconds:.3f} of {seconds:.3f} s")
    raise AssertionError("the last run is not killed")


def many_kills(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, base: Path, kinds: list[str], num_kills: int
) -> None:
    rng = random.Random(SEED)
    kills = trial = 0
    while kills < num_kills:
        kind, every = kinds[trial % len(kinds)], rng.choice(EVERY)
        expected, whole_result = uninterrupted_run(kind)
        print(f"trial {trial} (seed {SEED}): {kind}, a checkpoint every {every} steps")
        folder = base / "run"
        overrides = knobs(kind, f"checkpoint_every={every}")
        kills += killed_at_random(server, overrides, folder, whole_result.seconds, rng)
        assert_same_run(expected, folder, checkpoints=every == 1)
        shutil.rmtree(folder)
        trial += 1
    print(f"{kills} kills in {trial} runs")


def test_run_killed_at_random_moments_resumes_to_same_result(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, tmp_path: Path
) -> None:
    many_kills(server, uninterrupted_run, tmp_path, list(KINDS), 8)


@pytest.mark.long
def test_run_killed_two_hundred_times_resumes_to_same_result(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, tmp_path: Path
) -> None:
    many_kills(server, uninterrupted_run, tmp_path, list(KINDS), 200)
