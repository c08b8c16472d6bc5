"""``r1 options``: groups, options, and keys with their types, defaults and comments; the page of the docs."""

from __future__ import annotations

import runpy
import sys

import pytest
from omegaconf import OmegaConf

from r1 import options
from r1.config.check.schema import META
from r1.config.reference.files import file_names, group_names, option_names, parse_option, read_option
from r1.config.reference.text import key_rows
from r1.core.errors import CONFIG
from r1.core.paths import CONF, ROOT
from r1.core.provenance import flatten

OPTIONS = [(group, name) for group in group_names() if group != "experiment" for name in option_names(group)]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``printed("stage")``: the lines of ``r1 options stage``, with single spaces."""

    def call(*argv: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["r1 options", *argv])
        options.main()
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return call


def test_options_without_a_name_are_all_groups_and_the_keys_of_the_run(printed) -> None:
    lines = printed()
    assert "stage/optimizer adamw, muon, sgd how a gradient moves the weights" in lines
    assert "teacher openai, procedural*, transformers whom the stages distill, distill_* learn from" in lines
    assert "seed 0 keys every random draw of the run" in lines


def test_options_of_a_group_have_their_titles_and_its_groups(printed) -> None:
    lines = printed("data")
    assert lines[0] == "data: questions, answers, template, verifier"
    assert "gsm8k " in " ".join(lines)
    assert "data/template chat, few_shot, r1_zero how a question becomes the text that the model continues" in lines


@pytest.mark.parametrize("name", ["stage/grpo", "stage=grpo", "stage/grpo/"])
def test_option_has_keys_with_type_range_default_and_comment(printed, name: str) -> None:
    lines = printed(name)
    assert lines[1] == "conf/stage/grpo.yaml, r1.stage.grpo.Grpo"
    assert "group_size 8 whole number >= 1 G, completions per prompt (R1: 16)" in lines
    assert "kl_estimator k3 one of: k1, k2, k3 k1 | k2 | k3 (DeepSeekMath: k3)" in lines
    assert "lr ${recipe:lr.grpo} finite number > 0 not set: from model/recipe (R1: 3e-6)" in lines
    assert "warmup_steps 0 whole number >= 0 optimizer steps of linear warm-up" in lines  # of conf/stage/_base.yaml
    assert "stage/loss dapo cost and weight of a token" in lines


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("val", "val.every 25 whole number >= 1 optimizer steps between validations; the end always"),
        ("trainer", "trainer.devices 1 whole number >= 1 processes per node"),
        ("reward/terms/length", "weight 1.0 finite number or null its factor in the sum; null: only reported; DAPO 1"),
        ("stage/filters/length", "max 4096 finite number or null tokens; null: no upper bound"),
        ("model/recipe/tiny", "lr.grpo 3.0e-4 finite number > 0 prompts, their completions and rewards"),
        ("data/math500", "columns.level level text or null 1 to 5, for results by level"),
        ("reward=r1", "reward/terms@terms.language language"),
        ("experiment=papers/dapo", "stage.lr 1.0e-6 sec. 4.1: constant"),
    ],
)
def test_key_of_an_option(printed, name: str, line: str) -> None:
    assert line in printed(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stag", "did you mean `stage`?"),
        ("stage/grop", "did you mean `grpo`?"),
        ("stage/_base/x", ""),
        ("stage.lr", "of a key: r1 config explain stage.lr"),
    ],
)
def test_unknown_name_is_an_error(printed, capsys: pytest.CaptureFixture[str], name: str, hint: str) -> None:
    with pytest.raises(SystemExit) as end:
        printed(name)
    assert end.value.code == CONFIG
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in group_names() for n in file_names(g)])
def test_file_is_read_as_hydra_reads_it(group: str, name: str) -> None:
    """Independent of the parser: OmegaConf's values, flattened, are the keys of the file."""
    option = read_option(group, name)
    values = OmegaConf.to_container(OmegaConf.load(option.file))
    assert isinstance(values, dict)
    leaves = flatten({key: value for key, value in values.items() if key != "defaults"})
    shown = {key.name for key in option.keys.values() if key.default}
    missing = {leaf for leaf in leaves if leaf not in shown and not any(leaf.startswith(f"{key}.") for key in shown)}
    assert missing == set()
    lines = option.file.read_text().splitlines()
    assert all(
        lines[key.line - 1].lstrip().startswith(f"{key.name.rpartition('.')[2]}:") for key in option.keys.values()
    )


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_key_has_a_type_and_a_comment(group: str, name: str) -> None:
    rows = key_rows(read_option(group, name).with_bases())
    if "_target_" in read_option(group, name).with_bases().values:
        assert [key.name for key, words in rows if not words and "." not in key.name] == []
    assert [key.name for key, _ in rows if not key.comment and key.default and "." not in key.name] == []
    assert not {key.name for key, _ in rows} & set(META)


def test_comment_may_go_on_in_the_lines_below(tmp_path) -> None:
    file = tmp_path / "x.yaml"
    lines = ["# A title", "# of two lines.", "a: 1   # one", "       # and more", "# not this"]
    lines += ["b:", "  - x  # of the item", "c: [1,", "  '#']  # last", "d: 'a # b'  # real", ""]
    file.write_text("\n".join(lines))
    option = parse_option(file)
    assert option.title == "A title of two lines."
    assert [(key.name, key.default, key.comment, key.line) for key in option.keys.values()] == [
        ("a", "1", "one and more", 3),
        ("b", "[x]", "", 6),
        ("c", "[1,'#']", "last", 8),
        ("d", "'a # b'", "real", 10),
    ]


def test_page_of_the_docs_is_current() -> None:
    script = runpy.run_path(str(ROOT / "docs/make_reference.py"))
    text = script["PAGE"].read_text()
    assert text == script["page"](), "write it again: python docs/make_reference.py"
    assert [file for file in CONF.glob("*/**/[!_]*.yaml") if f"{file.stem}`" not in text] == []
