"""A run stops soon after a signal, records how it ended, and resumes to the same result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forkserver import ForkServer, UninterruptedRuns, knobs, log
from killpoints import Point, resolve
from samerun import assert_same_run, manifest
from suites import long_but

pytestmark = pytest.mark.slow

TIMEOUT_S = 20.0
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
DECODE, SAVE, EXPORT = "r1.rollout.decoding.token_sampler:TokenSampler.draw", "torch:save", "r1.stage.base:export"
ASK, TRAIN_START = "r1.teacher.procedural:Procedural.answer", "r1.train.checkpoint:Checkpoints.on_train_start"
# the first call of ASK and of SCORE is the check's, before there is a run
SCORE, CLIP = "r1.reward.base:Rewards.score", "r1.stage.training.base:TrainingStage.configure_gradient_clipping"
MANIFEST = "os:replace"

POINTS = {  # each run is stopped at one point after the other; the resumed process is stopped at the next
    "the start validation": (
        "grpo",
        Point(DECODE, call=3, number=TERM),
        Point(SCORE, call=2, number=INT),
        Point(MANIFEST, "after", call=2, match="manifest.json.tmp", number=HUP),
        Point(TRAIN_START, number=TERM),
    ),
    "between the start validation and the training": ("sft", Point(TRAIN_START, number=TERM)),
    "rollouts, and a reference that moves": (
        "kl",
        Point(DECODE, call=12, number=TERM),  # of the first step
        Point(DECODE, call=34, number=INT),  # of the third, before which the reference has moved
        Point(DECODE, call=3, number=TERM),  # of the same step again
        Point(SCORE, call=2, number=TERM),
    ),
    "a resampled prompt": (
        "resample",
        Point("r1.stage.rl.group_sampler:GroupSampler.sample", call=2, number=TERM),
        Point("r1.stage.rl.group_sampler:GroupSampler.sample", "after", call=2, number=TERM),
    ),
    "a step with two passes": (
        "grpo",
        Point("r1.stage.grpo:Grpo.training_step", call=2, number=TERM),
        Point(CLIP, number=INT),
        Point("r1.stage.training.base:TrainingStage.report_step", "after", number=TERM),
        Point(SAVE, number=TERM),
    ),
    "validations": (
        "sft",
        Point(DECODE, call=10, number=TERM),  # at the second step
        Point(DECODE, call=3, number=INT),  # while it is repeated after the resume
        Point(DECODE, call=10, number=TERM),  # at the fourth
        Point(DECODE, call=10, number=TERM),  # at the sixth, the last
        Point(DECODE, call=3, number=TERM),
    ),
    "a stop after a repeated validation": (
        "sft",
        Point(DECODE, call=10, number=TERM),
        Point(CLIP, number=TERM),
        Point(CLIP, number=signal.SIGKILL),
        Point(CLIP, "after", number=TERM),
    ),
    "the best model": (
        "sft",
        Point(EXPORT, match="best", number=TERM),
        Point(EXPORT, "after", match="best", number=TERM),
    ),
    "the teacher": (
        "distill",
        Point(ASK, call=2, number=TERM),
        Point("r1.stage.distillation.answer_cache:AnswerCache.add", number=INT),
        Point("r1.stage.distillation.traces:write_traces", number=TERM),
    ),
    "the model's own answers": (
        "reject",
        Point(DECODE, call=12, number=TERM),  # after the validation
        Point("r1.core.jsonl:append_rows", "after", match="traces/samples.jsonl", number=INT),
        Point(DECODE, call=14, number=HUP),
    ),
    "an evaluation": (
        "eval",
        Point(DECODE, call=3, number=TERM),
        Point(DECODE, call=5, number=INT),
    ),
}

DEFAULT = (
    "the start validation",
    "rollouts, and a reference that moves",
    "validations",
    "the teacher",
    "an evaluation",
)


@pytest.mark.parametrize("name", list(POINTS))
def test_stop_points_name_existing_functions(name: str) -> None:
    for point in POINTS[name][1:]:
        owner, attribute = resolve(point.target)
        assert callable(getattr(owner, attribute)), point


@pytest.mark.parametrize("name", long_but(DEFAULT, POINTS))
def test_stopped_run_resumes_to_the_same_result(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, folder: Path, name: str
) -> None:
    kind, *points = POINTS[name]
    expected, _ = uninterrupted_run(kind)
    overrides = knobs(kind, "checkpoint_every=4")  # most are saved because of the stop alone
    for i, point in enumerate(points):
        result = server.run(overrides, folder, point, resume=i > 0)
        if point.number == signal.SIGKILL:
            assert result.code == -9, log(folder)
            continue
        assert result.code == 128 + point.number, f"{point}\n{log(folder)}"
        assert manifest(folder)["status"] == "interrupted"
        assert manifest(folder)["error"] == f"Interrupted: {signal.Signals(point.number).name}"
    assert server.run(overrides, folder, resume=True).code == 0, log(folder)
    assert_same_run(expected, folder, checkpoints=False)


@pytest.mark.parametrize("target", [DECODE, CLIP, SAVE])
def test_second_signal_exits_immediately(
    server: ForkServer, uninterrupted_run: UninterruptedRuns, folder: Path, target: str
) -> None:
    point = Point(target, call=2, number=TERM, second=INT)
    assert server.run(knobs("sft"), folder, point).code == 128 + INT
    assert manifest(folder)["status"] == "running"  # there was no time to write
    assert server.run(knobs("sft"), folder, resume=True).code == 0, log(folder)
    assert_same_run(uninterrupted_run("sft")[0], folder)


ENDLESS = [  # one token in 65 thousand closes a completion
    "+model.config.vocab_size=200000",
    "model.config.max_position_embeddings=40000",
    "rollout.max_completion_length=30000",
    "data.num_train=64",
]


@pytest.mark.parametrize(
    ("kind", "number", "sweep", "code"),
    [("grpo", TERM, "", 143), pytest.param("eval", INT, "", 130, marks=pytest.mark.long), ("sft", TERM, "abc", 0)],
)
def test_signal_during_endless_rollout_stops_the_command(
    folder: Path, kind: str, number: int, sweep: str, code: int
) -> None:
    command = [sys.executable, "-m", "r1.run", *knobs(kind, *ENDLESS), f"output_dir={folder}"]
    path = os.pathsep.join(sys.path)
    environ = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "WANDB_SWEEP_ID": sweep}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_for(folder / "manifest.json", process)
        time.sleep(1.0)
        signalled = time.monotonic()
        process.send_signal(number)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    print(f"{kind}: stopped {time.monotonic() - signalled:.2f} s after {signal.Signals(number).name}")
    assert process.returncode == code, output
    assert manifest(folder)["status"] == "interrupted"
    assert "Traceback" not in output


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
