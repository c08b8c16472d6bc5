"""``r1 config explain``: every place that sets a key, the resolver behind it, and its reader."""

from __future__ import annotations

import sys

import pytest

from r1.config import __main__ as command
from r1.config.reference.explain import explain
from r1.core.errors import UserError


@pytest.mark.parametrize(
    ("key", "overrides", "lines"),
    [
        (
            "stage.lr",
            "",
            [
                ("", "stage.lr = 0.0003"),
                ("meaning", "not set: from model/recipe (R1: 3e-6)"),
                ("set by", "conf/stage/grpo.yaml:34   lr: ${recipe:lr.grpo}"),
                ("before", "conf/stage/_base.yaml:5   lr: ${recipe:lr.sft}"),
                ("resolver", "${recipe:lr.grpo}: The value for a model of this size, from ``model.recipe``."),
                ("from", "model.recipe.lr.grpo = 0.0003, conf/model/recipe/tiny.yaml:6"),
                ("read by", "r1.stage.grpo.Grpo(lr=...), r1/stage/grpo.py"),
            ],
        ),
        (
            "stage.lr",
            "experiment=papers/dapo stage.lr=1e-5",
            [
                ("", "stage.lr = 1e-05"),
                ("set by", "command line   stage.lr=1e-5"),
                ("before", "conf/experiment/papers/dapo.yaml:26   lr: 1.0e-6"),
            ],
        ),
        ("stage.loss", "stage/loss=cispo", [("set by", "command line   stage/loss=cispo")]),
        ("stage.loss", "", [("set by", "conf/stage/grpo.yaml   stage/loss: dapo")]),
        ("trainer.strategy", "strategy=ddp", [("set by", "command line   strategy=ddp")]),
        ("data.template", "", [("set by", "conf/data/_base.yaml   data/template: chat")]),
        ("data.columns.answer", "data=math500", [("set by", "conf/data/math500.yaml:7   answer: answer")]),
        ("val.num_prompts", "data=math500", [("from", "data.num_prompts = 500, conf/data/math500.yaml:11")]),
        ("model.precision", "", [("read by", "trainer.precision: ${model.precision}")]),
        ("reward.terms.format.weight", "", [("read by", "reward.terms, which holds it")]),
        ("reward.terms.x.buffer", "+reward/terms@reward.terms.x=length", [("", "reward.terms.x.buffer = 16")]),
        ("seed", "seed=3", [("", "seed = 3"), ("before", "conf/config.yaml:18   seed: 0")]),
        ("name", "'name=${oc.env:HOME}'", [("resolver", "the environment variable HOME")]),
    ],
)
def test_explain_names_the_sources_and_the_reader(key: str, overrides: str, lines: list[tuple[str, str]]) -> None:
    explained = explain(key, [text.strip("'") for text in overrides.split()])
    shown = [(label, text.partition(":")[0] if "config.yaml:" in text else text) for label, text in explained]
    wanted = [(label, text.partition(":")[0] if "config.yaml:" in text else text) for label, text in lines]
    assert [line for line in wanted if line not in shown] == []


def test_explain_reads_the_options_of_a_folder_of_the_user(tmp_path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nstage: {group_size: 4}  # fewer\n")
    lines = explain("stage.group_size", [f"--config-dir={tmp_path}", "experiment=mine"])
    assert lines[:2] == [("", "stage.group_size = 4"), ("meaning", "fewer")]
    assert lines[2][1].startswith(f"{tmp_path}/experiment/mine.yaml:2")


@pytest.mark.parametrize(
    ("key", "argv", "hint"),
    [
        ("stage.group_siz", [], "did you mean `stage.group_size`?"),
        ("stage.lr", ["stage=gpo"], "did you mean `grpo`?"),
        ("stage.lr", ["-m", "stage.lr=1,2"], "write the overrides of one run"),
    ],
)
def test_explain_of_an_unknown_key_is_an_error(key: str, argv: list[str], hint: str) -> None:
    with pytest.raises(UserError) as caught:
        explain(key, argv)
    assert hint in str(caught.value)


def test_explain_hides_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "sk-hunter2hunter2hunter2")
    lines = explain("logger.entity", ["logger=wandb", "logger.entity=${oc.env:MY_TOKEN}"])
    assert "hunter2" not in str(lines)


def test_config_command_prints_labels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["r1 config", "explain", "seed"])
    command.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["seed = 0", "  meaning   keys every random draw of the run"]


def test_config_command_without_a_key_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["r1 config", "explain"])
    with pytest.raises(SystemExit):
        command.main()
    assert "explain needs a KEY" in capsys.readouterr().err
