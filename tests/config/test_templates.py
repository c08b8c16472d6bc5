"""The template against the tokenizer: a setting without effect and a thinking that is opened twice are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from templates import TEMPLATES, chat

from r1.config.build import Experiment, build
from r1.config.check.components import check_parts
from r1.config.check.config import check_schema
from r1.core.errors import UserError
from r1.core.types import Config
from r1.model.chat import render_chat
from r1.run import execute

Checked = Callable[..., Experiment]


@pytest.fixture
def prepare(config: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """``prepare("qwen3", "stage=sft", ...)``: the config of a small run with this chat template."""

    def composed(name: str, *overrides: str, **columns: str) -> Config:
        template, rows = tmp_path / "chat.jinja", tmp_path / "rows.jsonl"
        template.write_text(TEMPLATES.get(name, name))
        made = [{"prompt": f"{i}+1=?", "answer": str(i + 1)} | columns for i in range(40)]
        rows.write_text("".join(json.dumps(row) + "\n" for row in made))
        knobs = [knob for knob in SMALL if not knob.startswith("data.")]
        knobs += ["data=dataset", f"data.path={rows}", "data.num_val=8", f"data.template.chat_template={template}"]
        return config(*knobs, "stage.micro_batch_size=1", *overrides)

    return composed


@pytest.fixture
def checked(prepare: Callable[..., Config]) -> Checked:
    def built(name: str, *overrides: str, **columns: str) -> Experiment:
        cfg = prepare(name, *overrides, **columns)
        check_schema(cfg)
        experiment = build(cfg)
        check_parts(cfg, experiment)
        return experiment

    return built


def refused(checked: Checked, name: str, *overrides: str, **columns: str) -> UserError:
    with pytest.raises(UserError) as caught:
        checked(name, *overrides, **columns)
    return caught.value


# ---- chat_template ----


def test_chat_template_replaces_the_tokenizers_and_is_saved_with_the_model(
    prepare: Callable[..., Config], folder: Path
) -> None:
    cfg = prepare("zephyr", "stage=sft", "data.columns.completion=answer", "trainer.max_steps=1")
    execute(cfg | {"output_dir": str(folder)}, [])
    assert (folder / "model" / "chat_template.jinja").read_text() == TEMPLATES["zephyr"]


def test_chat_template_that_is_no_template_is_refused(checked: Checked) -> None:
    error = refused(checked, "{% for m in messages %}", "stage=grpo")
    assert "the chat template refuses the messages: Unexpected end of template" in error.message


def test_missing_chat_template_file_is_refused(config: Callable[..., Config]) -> None:
    with pytest.raises(UserError, match="cannot be read") as caught:
        build(config("data.template.chat_template=/nowhere.jinja"))
    assert caught.value.key == "data.template.chat_template"


def test_chat_template_without_the_question_is_refused(checked: Checked) -> None:
    error = refused(checked, "User: {{ messages | length }}", "stage=grpo")
    assert "does not show the question" in error.message


def test_parts_with_different_chat_templates_are_refused(config: Callable[..., Config], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(TEMPLATES["zephyr"] + name)
    parts = [f"+data@data.parts.{name}=arithmetic" for name in ("x", "y")]
    files = [f"data.parts.{part}.template.chat_template={tmp_path / name}" for part, name in (("x", "a"), ("y", "b"))]
    build(config("data=mixture", *parts, files[0]))
    with pytest.raises(UserError, match="differs from another part's") as caught:
        build(config("data=mixture", *parts, *files))
    assert caught.value.key == "data.parts.y.template.chat_template"


# ---- chat_template_kwargs ----


def test_variables_reach_the_template(checked: Checked) -> None:
    variables = "data.template.chat_template_kwargs={reasoning_effort: high, strftime_now: 2025-06-01}"
    experiment = checked("gpt_oss", "stage=grpo", variables)
    prompt = experiment.data.prompt_text(experiment.stage.tokenizer, {"prompt": "1+1=?"})
    assert prompt == (
        "<|start|>system<|message|>Current date: 2025-06-01\n\nReasoning: high<|end|>"
        "<|start|>user<|message|>1+1=?<|end|><|start|>assistant"
    )


def test_variable_that_the_template_does_not_read_is_refused(checked: Checked) -> None:
    error = refused(checked, "gpt_oss", "stage=grpo", "data.template.chat_template_kwargs={reasoning_efort: high}")
    assert error.message == "the chat template does not read the variable `reasoning_efort`"
    assert error.key == "data.template.chat_template_kwargs.reasoning_efort"


def test_variable_of_a_judge_that_the_template_does_not_read_is_refused(checked: Checked) -> None:
    judge = ["stage=grpo", "+reward/terms@reward.terms.mine=self_judge"]
    name = "reward.terms.mine.chat_template_kwargs"
    checked("gpt_oss", *judge, f"{name}={{reasoning_effort: low}}")
    assert refused(checked, "gpt_oss", *judge, f"{name}={{effort: low}}").key == f"{name}.effort"


@pytest.mark.parametrize("variables", [{"messages": []}, {"tokenize": True}, {"tools": []}])
def test_variable_that_is_not_the_users_is_refused(variables: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no config sets") as caught:
        chat(chat_template_kwargs=variables)
    assert caught.value.key == ".chat_template_kwargs"


@pytest.mark.parametrize("date", ["1 June", 5, None, ""])
def test_date_that_is_none_is_refused(date: Any) -> None:
    with pytest.raises(UserError, match="strftime_now is the date"):
        chat(chat_template_kwargs={"strftime_now": date})


@pytest.mark.parametrize(
    ("name", "date"), [("llama3", "26 Jul 2024"), ("smollm3", "26 July 2024"), ("gpt_oss", "2024-07-26")]
)
def test_dated_template_gives_the_same_prompt_on_another_day(
    checked: Checked, monkeypatch: pytest.MonkeyPatch, name: str, date: str
) -> None:
    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2031, 12, 31)

    before = checked(name, "stage=grpo")
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    after = checked(name, "stage=grpo")
    prompts = [one.data.prompt_text(one.stage.tokenizer, {"prompt": "?"}) for one in (before, after)]
    assert prompts[0] == prompts[1]
    assert date in prompts[0]
    talk = render_chat(after.stage.tokenizer, [{"role": "user", "content": "?"}], add_generation_prompt=False)
    assert date in talk


# ---- what has no effect, or too much ----


def test_system_message_that_the_template_leaves_out_is_refused(checked: Checked) -> None:
    silent = "{% for m in messages if m.role != 'system' %}{{ m.content + eos_token }}{% endfor %}"
    error = refused(checked, silent, "stage=grpo", "data.template.system='Think first.'")
    assert (error.message, error.key) == ("the chat template leaves the system message out", "data.template.system")
    checked("zephyr", "stage=grpo", "data.template.system='Think first.'")


def test_prefill_that_does_not_name_the_tag_before_it_is_refused(checked: Checked) -> None:
    error = refused(checked, "deepseek_r1", "stage=grpo", "data.template.prefill=Okay")
    assert (error.key, error.expected) == ("data.template.prefill", "'<think>Okay'")
    checked("deepseek_r1", "stage=grpo", "data.template.prefill='<think>Okay'")


def test_prefill_with_an_escape_is_refused(checked: Checked) -> None:
    error = refused(checked, "deepseek_r1", "stage=grpo", r"data.template.prefill='<think>\n'")
    assert "a backslash and an n" in error.message
    checked("zephyr", "stage=grpo", r"data.template.prefill='\nabla'")


def test_prefill_after_an_empty_thinking_is_refused(checked: Checked) -> None:
    overrides = ["data.template.chat_template_kwargs={enable_thinking: false}", "data.template.prefill='<think>'"]
    error = refused(checked, "qwen3", "stage=grpo", *overrides)
    assert error.message.startswith("the chat template writes an empty thinking")


def test_completions_that_never_close_an_opened_thinking_are_refused(checked: Checked) -> None:
    prefill = "data.template.prefill='<think>'"
    error = refused(checked, "opens_thinking", "stage=sft", prefill, completion="It is 2.")
    assert "the prompt opens the thinking, and 32 of 32 completions never close it" in error.message
    checked("opens_thinking", "stage=sft", prefill, completion="1 plus 1</think>It is 2.")


def test_completions_without_thinking_fit_a_template_that_writes_an_empty_one(checked: Checked) -> None:
    checked("qwen3_thinking", "stage=sft", "data.template.prefill='<think>'", completion="It is 2.")


@pytest.mark.parametrize("thinking", ["<think>1 plus 1</think>", "1 plus 1\n</think>\n\n"])
def test_completions_that_think_after_an_empty_thinking_are_refused(checked: Checked, thinking: str) -> None:
    variables = "data.template.chat_template_kwargs={enable_thinking: false}"
    error = refused(checked, "qwen3", "stage=sft", variables, completion=f"{thinking}It is 2.")
    assert "in another way than the prompt opens it" in error.message
