"""Conversations through the stages: the step of SFT, pairs of a reward model, questions of GRPO, teachers, filters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from badserver import Server
from conftest import SMALL
from replies import NO_KNOBS
from torch import Tensor
from transformers import AutoTokenizer

from r1.config.build import build
from r1.config.check.components import check_parts
from r1.config.check.config import check_schema
from r1.config.check.templates import unread_forms
from r1.core.errors import UserError
from r1.core.paths import ASSETS
from r1.data.base import Row
from r1.data.conversation import with_conversations
from r1.model.forward import Forward
from r1.reward.reward_model_io import chat_text
from r1.rollout.base import no_op
from r1.run import execute
from r1.stage.sft import Sft
from r1.teacher.base import Answer, question_identity, questions
from r1.teacher.openai import OpenAI
from r1.train.fit import plan_notes

Stages = Callable[..., Any]
Config = dict[str, Any]
SYSTEM = {"role": "system", "content": "Add."}


def talk(first: int, second: int = 1, *before: dict[str, str]) -> list[dict[str, str]]:
    return [
        *before,
        {"role": "user", "content": f"{first}+1=?"},
        {"role": "assistant", "content": f"<answer>{first + 1}</answer>"},
        {"role": "user", "content": f"{first}+1+{second}=?"},
        {"role": "assistant", "content": f"<answer>{first + 1 + second}</answer>"},
    ]


ROWS: list[Row] = [with_conversations({"messages": talk(i, 2 * i)}) for i in range(1, 7)]
ROWS += [{"prompt": "1+1=?", "completion": "<answer>2</answer>"}, {"prompt": "9+8=?", "completion": "17"}]


@pytest.fixture
def reads(config: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """``reads(rows, "stage=sft", ...)``: the config of a small run on a file of these rows."""

    def composed(rows: list[Row], *overrides: str) -> Config:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        small = [knob for knob in SMALL if not knob.startswith("data.")]
        return config(*small, "data=dataset", f"data.path={tmp_path / 'rows.jsonl'}", "data.num_val=2", *overrides)

    return composed


# ---- SFT ----


def learned_parts(row: Row) -> list[tuple[str, bool]]:
    """The text of a row in the tiny world's chat format, part by part, and whether it is learned; written by hand."""
    if "messages" not in row:
        return [(f"User: {row['prompt']}\nAssistant:", False), (f"{row['completion']}<|eos|>", True)]
    parts = []
    for i, message in enumerate(row["messages"]):
        if message["role"] == "user":
            parts.append((("\n" if i else "") + f"User: {message['content']}\nAssistant:", False))
        else:
            parts.append((f"{message['content']}<|eos|>", True))
    return parts


def reference(made: Sft, rows: list[Row], last_only: bool) -> Tensor:
    """Mean negative log-likelihood over the learned tokens of all rows, one forward pass per row."""
    costs: list[Tensor] = []
    for row in rows:
        parts = learned_parts(row)
        ids = made.tokenizer("".join(text for text, _ in parts)).input_ids
        logps = made.policy(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        start = 0
        for i, (text, is_learned) in enumerate(parts):
            length = len(made.tokenizer(text).input_ids)
            if is_learned and (i == len(parts) - 1 or not last_only):
                costs += [-logps[t - 1, ids[t]] for t in range(start, start + length)]
            start += length
        assert start == len(ids)
    return torch.stack(costs).mean()


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("sizes", ["stage.micro_batch_size=4", "stage.micro_batch_tokens=400"])
def test_step_on_conversations_matches_a_loop_over_the_learned_tokens(
    stage: Stages, packing: bool, sizes: str, last_only: bool
) -> None:
    sizes = f"stage.micro_batch_size=null {sizes}" if "tokens" in sizes else sizes
    made = stage("stage=sft", "stage.examples_per_step=8", *sizes.split(), f"stage.mask_history={last_only}")
    made.data = replace(made.data, train=ROWS)
    made.forward_pass = Forward(packing, share_prompts=False)
    batches = made.micro_batches(0)
    for i, batch in enumerate(batches):
        made.training_step(batch, i)
    expected = reference(made, ROWS, last_only)
    assert made.step_metrics["train/loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert sum(batch.num_tokens for batch in batches) == batches[0].step_tokens


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_labels_are_those_of_trls_trainer(tmp_path: Path) -> None:
    """TRL's own SFTTrainer, ``assistant_only_loss``, on the rows that r1 reads."""
    from datasets import Dataset
    from templates import chat
    from trl import SFTConfig, SFTTrainer

    from r1.data.base import Data
    from r1.data.verifier.exact import exact

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'Assistant:' }}"
        "{% generation %}{{ m.content + eos_token }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ m.role.capitalize() + ': ' + m.content + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )
    rows = [{"messages": talk(i, 7 * i, *[SYSTEM] * (i % 2))} for i in range(5)]
    knobs: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False}
    config = SFTConfig(str(tmp_path), assistant_only_loss=True, max_length=None, **knobs)
    dataset = Dataset.from_list(rows)
    trainer = SFTTrainer(str(ASSETS / "tiny"), config, train_dataset=dataset, processing_class=tokenizer)
    data = Data(train=[], val=[], template=chat(), verifier=exact)
    for row, made in zip(rows, trainer.train_dataset, strict=True):
        context, targets, is_learned = data.example(tokenizer, with_conversations(row))
        labels = [-100] * len(context) + [t if one else -100 for t, one in zip(targets, is_learned, strict=True)]
        assert (context + targets, labels) == (made["input_ids"], made["labels"])


def test_run_trains_on_a_file_of_conversations(reads: Callable[..., Config], folder: Path) -> None:
    rows = [{"messages": talk(i)} for i in range(20)]
    execute(reads(rows, "stage=sft", "trainer.max_steps=2", f"output_dir={folder}"), [])
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("train/loss" in row for row in metrics) == 2
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert samples[0]["prompt"].startswith("user: ")
    assert "\n\nassistant: <answer>" in samples[0]["prompt"]


# ---- questions ----


def test_run_of_grpo_takes_questions_of_several_messages(reads: Callable[..., Config], folder: Path) -> None:
    rows = [{"prompt": talk(i, 3)[:3], "answer": i + 4} for i in range(20)]
    execute(reads(rows, "stage=grpo", "trainer.max_steps=1", f"output_dir={folder}"), [])
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {sample["split"] for sample in samples} == {"train", "val"}
    assert all(sample["prompt"].count("\n\n") == 2 for sample in samples)


def test_system_message_that_the_template_leaves_out_is_refused(reads: Callable[..., Config], tmp_path: Path) -> None:
    silent = "{% for m in messages if m.role != 'system' %}{{ m.content + eos_token }}{% endfor %}"
    (tmp_path / "chat.jinja").write_text(silent)
    rows = [{"prompt": [SYSTEM, {"role": "user", "content": f"{i}+1=?"}], "answer": i + 1} for i in range(20)]
    cfg = reads(rows, "stage=grpo", f"data.template.chat_template={tmp_path / 'chat.jinja'}")
    check_schema(cfg)
    with pytest.raises(UserError, match="does not show the system's message"):
        check_parts(cfg, build(cfg))


def test_teacher_gets_the_system_message_the_tools_and_the_instruction() -> None:
    row = with_conversations({"prompt": [SYSTEM, {"role": "user", "content": "1+1=?"}], "tools": [{"name": "add"}]})
    assert question_identity({"prompt": "1+1=?"}) == {"question": "1+1=?"}
    assert question_identity(row) == {
        "messages": [SYSTEM, {"role": "user", "content": "1+1=?"}],
        "tools": [{"name": "add"}],
    }
    assert question_identity({"prompt": "1+1=?", "instructed": "1+1=?\nBox it."}) == {"question": "1+1=?\nBox it."}
    plain, system = (questions([one], 1, seed=0)[0].seed for one in ({"prompt": "1+1=?"}, row))
    assert plain == system  # one question, one seed; the answers' keys differ


def test_distillation_asks_with_the_instruction_and_writes_traces_without(experiment: Stages) -> None:
    made = experiment("stage=distill", "data.instruction='Box it.'").stage
    asked = []

    class Recorded:
        name = "recorded"

        def identity(self, row: Row) -> dict[str, Any]:
            return question_identity(row)

        def answer(self, questions: Any, check_for_stop: Any) -> Any:
            from r1.teacher.base import Reply

            asked.extend(question.row["instructed"] for question in questions)
            yield [Reply(question, Answer(f"<think>1</think><answer>{question.row['answer']}</answer>", "stop", 0, 0))
                   for question in questions]  # fmt: skip

    made.teacher, made.report = Recorded(), lambda metrics: None
    rows, _ = made.make_traces()
    assert asked
    assert all(question.endswith("=?\nBox it.") for question in asked)
    assert all("instructed" not in row and row["prompt"].endswith("=?") for row in rows)
    assert made.data.prompt_text(made.tokenizer, rows[0]).endswith("=?\nBox it.\nAssistant:")


# ---- pairs ----


def test_pairs_of_conversations_are_the_chats_that_a_template_writes(stage: Stages) -> None:
    made = stage("stage=reward_model", "data=tiny_open")
    other = [*talk(1, 2, SYSTEM)[:4], {"role": "assistant", "content": "5"}]
    row = with_conversations({"chosen": talk(1, 2, SYSTEM), "rejected": other})
    assert row["chosen"] == "<answer>4</answer>"
    expected = made.tokenizer.apply_chat_template(talk(1, 2, SYSTEM), tokenize=True, return_dict=False)
    assert made.chat_ids(row, "chosen") == expected
    assert chat_text(made.tokenizer, row, row["rejected"]).endswith("5<|eos|>\n")


# ---- the instruction ----


def notes(experiment: Stages, *overrides: str) -> list[str]:
    made = experiment("stage=grpo", *overrides)
    return [note for note in plan_notes(made.stage, made.data) if "instruction" in note]


def test_instruction_is_part_of_the_plan_and_ends_every_prompt(experiment: Stages) -> None:
    override = r"data.instruction='Box it: \boxed{}.'"
    assert notes(experiment, override) == [r"data.instruction ends every question: Box it: \boxed{}."]
    made = experiment("stage=grpo", override)
    assert made.data.prompt_text(made.stage.tokenizer, {"prompt": "1+1=?"}) == (
        "User: 1+1=?\nBox it: \\boxed{}.\nAssistant:"
    )
    assert notes(experiment) == []


def test_instruction_is_left_out_where_the_template_asks_for_the_same_tags(experiment: Stages) -> None:
    asks = "data.instruction='Answer between <answer> and </answer>.'"
    zero, boxed = "data/template=r1_zero", r"data.instruction='Box it: \boxed{}.'"
    assert len(notes(experiment, asks)) == 1
    assert notes(experiment, asks, zero) == []
    assert notes(experiment, asks, "data.template.system='Write <answer>, the answer and </answer>.'") == []
    assert len(notes(experiment, boxed, zero)) == 1


def test_chat_model_that_is_not_asked_for_a_form_is_warned_of(experiment: Stages, tmp_path: Path) -> None:
    foreign = {"model": {"path": str(tmp_path)}}
    (warning,) = unread_forms(foreign, experiment("stage=grpo"))
    assert warning.startswith("warning: data: no question asks for <answer>...</answer> or \\boxed{...}")
    assert "data.instruction" in warning
    system = r"data.template.system='Put it into \boxed{}.'"
    for asks in (r"data.instruction='Box it: \boxed{}.'", system, "data/template=r1_zero"):
        assert not list(unread_forms(foreign, experiment("stage=grpo", asks)))
    assert not list(unread_forms({"model": {"path": "r1:tiny"}}, experiment("stage=grpo")))
    assert not list(unread_forms({"model": {"path": None}}, experiment("stage=grpo")))
    (tmp_path / "manifest.json").write_text('{"schema": 1, "status": "finished", "overrides": []}')
    assert not list(unread_forms(foreign, experiment("stage=grpo")))


def test_endpoint_gets_the_messages_and_the_tools() -> None:
    row = {"prompt": talk(1)[:3], "system": "Add.", "tools": [{"type": "function", "function": {"name": "add"}}]}
    with Server() as server:
        knobs = NO_KNOBS | {"requests_per_minute": None, "tokens_per_minute": None, "max_retries": 0}
        knobs |= {"temperature": 0.6, "max_completion_length": 32, "concurrency": 1, "timeout_s": 5.0}
        teacher = OpenAI(url=server.url, model="big", api_key_env=None, max_failures=0, **knobs)
        list(teacher.answer(questions([row], 1, seed=0), no_op))
        body = server.requests[0].json
    assert body["messages"] == [SYSTEM, *talk(1)[:3]]
    assert body["tools"] == row["tools"]


def test_checks_of_the_last_turn_alone_do_not_hold_for_all_turns(reads: Callable[..., Config], tmp_path: Path) -> None:
    """The result of the length check is cached with the rows, and only some knobs of the stage leave it as it is."""
    (tmp_path / "rewrites.jinja").write_text(
        "{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'assistant' and not loop.last %}Earlier {% endif %}"
        "{{ m.content }}<|eos|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    rows = [{"messages": talk(i)} for i in range(12)]
    overrides = ["stage=sft", "data/template=chat", f"data.template.chat_template={tmp_path / 'rewrites.jinja'}"]
    for mask_history in ("true", "false"):
        cfg = reads(rows, *overrides, f"stage.mask_history={mask_history}")
        check_schema(cfg)
        experiment = build(cfg)
        if mask_history == "true":
            check_parts(cfg, experiment)
        else:
            with pytest.raises(UserError, match="in another way"):
                check_parts(cfg, experiment)
