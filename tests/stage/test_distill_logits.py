"""stage=distill_logits: the loss and gradient of a whole step, the teacher that is only read, and who may be one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from slow import assert_same, collected, gradient
from torch import Tensor
from transformers import AutoTokenizer

from r1.core.errors import MODEL, UserError
from r1.core.model_paths import resolve_model_path
from r1.core.runs import read_run
from r1.core.types import Config
from r1.data.base import Row
from r1.model.forward import Forward
from r1.model.loading import Model
from r1.run import execute

Stages = Callable[..., Any]
TEACHER = ["teacher=transformers", "teacher.path=r1:tiny_xs", "teacher.dtype=float32"]
DIVERGENCES = ["forward_kl", "reverse_kl", "jsd"]


def rows(made: Any) -> list[Row]:
    return [made.data.train[i] for i in made.step_indices(0)]


def slow_loss(made: Any, tau: float, share: float) -> Tensor:
    """One example at a time through both models' own forward, full logits, the papers' sums."""
    total, count = torch.tensor(0.0), 0
    for row in rows(made):
        prompt, targets, _ = made.sequence(row)
        ids = torch.tensor([prompt + targets])
        logits = made.policy(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        with torch.no_grad():
            theirs = made.teacher.teacher.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        p, q = (z.div(tau).softmax(-1) for z in (theirs, logits))
        m = 0.5 * (p + q)
        kinds = {
            "forward_kl": lambda p=p, q=q: (p * (p / q).log()).sum(),
            "reverse_kl": lambda p=p, q=q: (q * (q / p).log()).sum(),
            "jsd": lambda p=p, q=q, m=m: 0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum(),
        }
        logps = logits.log_softmax(-1)[range(len(targets)), targets]
        total = total + (1 - share) * tau**2 * kinds[made.divergence.func.__name__]() - share * logps.sum()
        count += len(targets)
    return total / count


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("tau", "share"), [(1.0, 0.0), (1.5, 0.25)])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_step_matches_full_logits_one_example_at_a_time(
    stage: Stages, divergence: str, tau: float, share: float, packing: bool
) -> None:
    knobs = [f"stage/divergence={divergence}", f"stage.temperature={tau}", f"stage.cross_entropy={share}"]
    made = stage("stage=distill_logits", *TEACHER, *knobs, f"stage.packing={packing}")
    found = gradient(made, made.micro_batches(0))
    made.policy.zero_grad()
    loss = slow_loss(made, tau, share)
    loss.backward()
    assert_same(found, collected(made.policy), atol=1e-5)
    assert made.step_metrics["train/loss"] == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_distill_logits_gradient_does_not_depend_on_micro_batch_size(stage: Stages, divergence: str, size: int) -> None:
    knobs = [*TEACHER, f"stage/divergence={divergence}", "stage.cross_entropy=0.3"]
    whole = stage("stage=distill_logits", *knobs)
    parts = stage("stage=distill_logits", *knobs, f"stage.micro_batch_size={size}")
    lengths = [len(whole.sequence(row)[1]) for row in rows(whole)]
    assert len(set(lengths)) > 1, "means of means would not show"
    assert_same(gradient(parts, parts.micro_batches(0)), gradient(whole, whole.micro_batches(0)))
    assert parts.step_metrics["train/divergence"] == pytest.approx(whole.step_metrics["train/divergence"], rel=1e-6)


def test_loss_on_prompt_includes_prompt_tokens(stage: Stages) -> None:
    made = stage("stage=distill_logits", *TEACHER, "stage.loss_on_prompt=true")
    found = gradient(made, made.micro_batches(0))
    made.policy.zero_grad()
    slow_loss(made, 1.0, 0.0).backward()
    assert_same(found, collected(made.policy), atol=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_student_equal_to_teacher_has_zero_gradient(stage: Stages, divergence: str) -> None:
    made = stage("stage=distill_logits", *TEACHER, f"stage/divergence={divergence}")
    made.policy = Model.pretrained("r1:tiny_xs", "float32").load(0)
    assert gradient(made, made.micro_batches(0)).abs().max() < 1e-5
    assert made.step_metrics["train/loss"] == pytest.approx(0, abs=1e-6)


def test_teacher_is_frozen_and_not_in_state_dict(stage: Stages) -> None:
    made = stage("stage=distill_logits", *TEACHER)
    teacher = made.teacher.to(made.device)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    gradient(made, made.micro_batches(0))
    assert not teacher.training
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert {name.split(".")[0] for name in made.state_dict()} == {"policy"}


def test_gradient_is_the_same_if_student_or_teacher_cannot_pack(stage: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage("stage=distill_logits", *TEACHER)
    expected = gradient(made, made.micro_batches(0))
    for refuses in (made.policy, made.teacher.to(made.device)):
        monkeypatch.setattr(Forward, "can_pack", lambda self, model, batch, no=refuses: model is not no)
        assert_same(gradient(made, made.micro_batches(0)), expected, atol=1e-5)


# ---- who may be a teacher ----


@pytest.mark.parametrize("kind", ["distill_logits", "distill_on_policy"])
def test_teacher_without_local_model_is_rejected(experiment: Callable[..., Any], kind: str) -> None:
    with pytest.raises(UserError, match="which only a model in this process has") as caught:
        experiment(f"stage={kind}")
    assert (caught.value.key, caught.value.value) == ("teacher", "procedural")
    assert "teacher=transformers" in caught.value.hint


def changed_tokenizer(folder: Path, change: Callable[[Config], None]) -> str:
    """The tiny world's tokenizer with something else in it; there are no weights beside it."""
    AutoTokenizer.from_pretrained(resolve_model_path("r1:tiny_xs")).save_pretrained(folder)
    (folder / "config.json").write_text((Path(resolve_model_path("r1:tiny_xs")) / "config.json").read_text())
    file = folder / "tokenizer.json"
    held = json.loads(file.read_text())
    change(held)
    file.write_text(json.dumps(held))
    return str(folder)


def swap(held: Config) -> None:
    vocabulary = held["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]


def no_merges(held: Config) -> None:
    held["model"]["merges"] = []


@pytest.mark.parametrize(
    ("change", "how"), [(swap, "2 ids differ, the first is .*: 'A' and 'B'"), (no_merges, "they split .* differently")]
)
def test_different_tokenizer_is_rejected_before_weights_are_loaded(
    experiment: Callable[..., Any], tmp_path: Path, change: Callable[[Config], None], how: str
) -> None:
    path = changed_tokenizer(tmp_path, change)
    with pytest.raises(UserError, match=how) as caught:
        experiment("stage=distill_logits", *TEACHER, f"teacher.path={path}")
    assert (caught.value.key, caught.value.value, caught.value.code) == ("teacher.path", path, MODEL)
    assert "tiny" in caught.value.expected


# ---- a whole run ----


def test_run_lowers_loss_and_records_teacher_as_parent(small: Callable[..., Config], tmp_path: Path) -> None:
    execute(small("stage=sft", "trainer.max_steps=2", f"output_dir={tmp_path / 'teacher'}"), [])
    knobs = [*TEACHER, f"teacher.path={tmp_path / 'teacher'}", "seed=1", "stage.lr=0.01", "trainer.max_steps=20"]
    execute(small("stage=distill_logits", *knobs, "val.every=20", f"output_dir={tmp_path / 'student'}"), [])
    done = read_run(str(tmp_path / "student"))
    losses = [row["train/loss"] for row in done.metrics if "train/loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    (parent,) = done.manifest["parents"]
    assert parent["fingerprint"] == read_run(str(tmp_path / "teacher")).manifest["fingerprint"]
