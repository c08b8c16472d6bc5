"""stage=distill_direct: the student asks, the teacher answers, nothing held out is ever learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasetoptions import PLAIN

from r1.core import jsonl
from r1.core.errors import DATA, UserError
from r1.core.runs import read_run
from r1.core.types import Config
from r1.data.base import DataOptions
from r1.data.split import is_held_out
from r1.run import execute
from r1.stage.distillation.question_generation import REASONS

ENDS = [  # a question goes to the next 1, which random weights soon write
    "stage.single_line=false",
    "stage.max_question_length=8",
    "data/template=r1_zero",
    "data.template.text='Q: {prompt}1'",
]
KNOBS = ["stage.num_questions=40", "stage.answers_per_question=2", "trainer.max_steps=3", "val.every=3", "threads=1"]


@pytest.fixture(scope="module")
def finished(config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the shipped model, which has read how people ask."""
    folder = tmp_path_factory.mktemp("direct") / "run"
    batch = ["stage.examples_per_step=8", "stage.micro_batch_size=8", "val.num_prompts=4", "data.num_train=8"]
    cfg = config("stage=distill_direct", "model=tiny_xs", *batch, *KNOBS, f"output_dir={folder}")
    execute(cfg | {"trainer": cfg["trainer"] | {"accelerator": "cpu"}}, [])
    return folder


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return jsonl.read_rows(folder / "traces" / name)


def test_teacher_answers_questions_of_the_student(finished: Path) -> None:
    questions = [row["prompt"] for row in lines(finished, "questions.jsonl")]
    assert len(set(questions)) == 40
    assert [line["query"]["question"] for line in lines(finished, "answers.jsonl")[::2]] == questions
    rows = lines(finished, "traces.jsonl")
    assert {row["prompt"] for row in rows} <= set(questions)
    assert 40 < len(rows) < 80, "two answers each, of which the wrong ones are left out"
    assert all(f"<answer>{row['answer']}</answer>" in row["completion"] for row in rows)


def test_generated_questions_are_not_held_out(finished: Path) -> None:
    assert not any(is_held_out(row["prompt"]) for row in lines(finished, "questions.jsonl"))


def test_rejected_questions_are_logged_once_by_reason(finished: Path) -> None:
    (logged,) = [row for row in read_run(str(finished)).metrics if "questions/written" in row]
    counts = json.loads((finished / "traces" / "questions.json").read_text())["counts"]
    assert counts["written"] == 40 + sum(counts[reason] for reason in REASONS) > 40
    shares = {f"questions/{reason}": counts[reason] / counts["written"] for reason in REASONS}
    assert logged == {"step": 0, "questions/written": counts["written"]} | shares


def test_generated_questions_depend_on_seed_only(stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = ["data._target_=conftest.any_sums", "stage.num_questions=12", *ENDS]
    made = stage("stage=distill_direct", *knobs)
    rows, counts = made.generate_questions()
    assert len(rows) == 12
    monkeypatch.setattr("r1.stage.distill_direct.QUESTIONS_PER_BATCH", 5)
    assert stage("stage=distill_direct", *knobs, "rollout.batch_size=2").generate_questions() == (rows, counts)
    assert stage("stage=distill_direct", *knobs, "seed=1").generate_questions()[0] != rows


def test_too_few_accepted_questions_raise_after_max_tries(stage: Callable[..., Any]) -> None:
    """Random weights never write a sum."""
    made = stage("stage=distill_direct", "stage.num_questions=20", "stage.max_tries=2", "stage.single_line=true")
    with pytest.raises(UserError, match="wrote 40 questions, of which 0 were accepted") as caught:
        made.generate_questions()
    assert caught.value.code == DATA
    assert caught.value.value.startswith("written 40, unfinished ")


def test_question_settings_do_not_change_the_run_engine(experiment: Callable[..., Any]) -> None:
    made = experiment("stage=distill_direct", "stage.question_temperature=0.7", "rollout.temperature=0.9").stage
    assert (made.engine.sampling["temperature"], made.engine.max_completion_length) == (0.9, 8)
    assert (made.question_engine.sampling["temperature"], made.question_engine.max_completion_length) == (0.7, 32)


@pytest.fixture
def open_ended(small: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """A config whose dataset cannot work out the answer to a new question."""
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(f'{{"prompt": "What is {n}?", "answer": "{n}"}}\n' for n in range(40)))

    def composed(*overrides: str) -> Config:
        cfg = small("stage=distill_direct", *ENDS, *overrides)
        kept = {name: cfg["data"][name] for name in DataOptions.__annotations__}
        knobs = PLAIN | {"_target_": "r1.data.dataset.dataset", "path": str(file), "num_val": 8}
        return cfg | {"data": knobs | kept}

    return composed


def test_questions_without_gold_answer_are_distilled(open_ended: Callable[..., Config], folder: Path) -> None:
    teacher = ["teacher=transformers", "teacher.path=r1:tiny_xs", "teacher.dtype=float32", "trainer.max_steps=2"]
    execute(open_ended("stage.num_questions=12", *teacher, f"output_dir={folder}"), [])
    rows = lines(folder, "traces.jsonl")  # the verifier's filter does not apply
    assert 4 <= len(rows) <= 12
    assert all(set(row) == {"prompt", "completion", "teacher"} for row in rows)
