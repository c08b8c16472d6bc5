"""The commands, keys and tables of README.md and docs/ against the code."""

from __future__ import annotations

import inspect
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from r1.config.build import build
from r1.config.check import rules
from r1.config.check.config import check_schema
from r1.config.compose import compose_points
from r1.config.overrides import parse_command_line, parse_overrides
from r1.core.errors import UserError, UserErrors
from r1.core.paths import CONF, ROOT
from r1.core.types import Config
from r1.experiment.pipeline.parse import parse_pipelines, split_step_overrides

DOCS = ROOT / "docs"
TEXTS = sorted([ROOT / "README.md", *(page for page in DOCS.rglob("*.md"))])
COMMAND = re.compile(r"^ *(?:\$ )?python -m r1\.run (.*)$", re.MULTILINE)
NOT_COMPOSED = {  # start of a word -> the reason
    "stage.group_siz=": "shown with the error that it ends with",
    "...": "not a whole command",
    "extensions=[mypkg]": "a package of the reader's",
    "$rollout.stop=": "quoted for bash",
    "model.path=HuggingFaceTB/": "the hub would be read",
}


def commands(file: Path) -> list[list[str]]:
    """The arguments of every `python -m r1.run` at the start of a line, without its comment."""
    lines = COMMAND.findall(file.read_text().replace("\\\n", " "))
    argvs = [shlex.split(line, comments=True) for line in lines]
    return [argv for argv in argvs if not any(word.startswith(tuple(NOT_COMPOSED)) for word in argv)]


def table(file: Path, first: str) -> list[list[str]]:
    """The rows of the table whose first heading is ``first``; cells without the signs of code."""
    lines = file.read_text().partition(f"| {first} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]


def code(cell: str) -> str:
    """The first text in backticks."""
    found = re.search(r"`([^`]+)`", cell)
    assert found, cell
    return found[1]


def check_command(argv: list[str]) -> None:
    """Compose the runs or the pipelines of a command line; keys, types and ranges of a run are checked."""
    words, of_step = split_step_overrides(argv)
    args, overrides = parse_command_line(words)
    if args.multirun:
        overrides = parse_overrides(args.overrides, multirun=True)
    if not parse_pipelines(args, overrides, of_step):
        for point in compose_points(args, overrides):
            check_schema(point.config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", [file for file in TEXTS if commands(file)], ids=lambda file: str(file.relative_to(ROOT))
)
def test_commands_of_a_text_compose(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_rewards"  # the one of docs/tutorials/reward.md
    package.mkdir()
    (package / "__init__.py").touch()
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "tutorials/reward.md").read_text(), re.MULTILINE | re.DOTALL)
    (package / "terms.py").write_text(blocks[0])
    monkeypatch.syspath_prepend(tmp_path)
    errors = {}
    for argv in commands(file):
        try:
            check_command(argv)
        except UserErrors as error:
            errors[shlex.join(argv)] = [one.message for one in error.errors]
        except UserError as error:
            errors[shlex.join(argv)] = [error.message]
    assert errors == {}


def test_targets_of_make_in_texts_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [*TEXTS, ROOT / "CONTRIBUTING.md"]
    named = {name for file in texts for name in re.findall(r"(?:^ {4}|`)make ([\w-]+)", file.read_text(), re.MULTILINE)}
    assert {"run", "test"} <= named <= targets


def test_metrics_page_is_the_registry() -> None:
    script = runpy.run_path(str(DOCS / "make_metrics.py"))
    assert script["PAGE"].read_text() == script["page"](), "write it again: python docs/make_metrics.py"


def keys_of_r1(cells: list[str]) -> Iterator[str]:
    for cell in cells:
        yield from re.findall(r"`([\w./]+(?:=\w+)?)`", cell)


@pytest.mark.parametrize("first", ["TRL", "verl", "`lightning.Trainer`"])
def test_keys_of_r1_in_migration_tables_exist(config: Callable[..., Config], first: str) -> None:
    cfg = config("stage=grpo", "reward=math")
    for key in keys_of_r1([row[1] for row in table(DOCS / "migrating.md", first)]):
        if "=" in key:
            group, _, option = key.partition("=")
            assert (CONF / group / f"{option}.yaml").is_file(), key
            continue
        node: Any = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


@pytest.mark.slow
def test_keys_of_trl_and_lightning_in_migration_tables_exist() -> None:
    import lightning
    from trl import GRPOConfig, SFTConfig

    page = DOCS / "migrating.md"
    trl = {code(row[0]) for row in table(page, "TRL")}
    assert trl <= GRPOConfig.__dataclass_fields__.keys()
    assert "packing" in SFTConfig.__dataclass_fields__
    trainer = {code(row[0]) for row in table(page, "`lightning.Trainer`")}
    assert trainer <= inspect.signature(lightning.Trainer.__init__).parameters.keys()


TEACHER = ("teacher=transformers", "teacher.path=r1:tiny")
NEEDS = {"distill_logits": TEACHER, "distill_on_policy": TEACHER, "reward_model": ("data=tiny_open",)}
STRATEGIES = ("single", "ddp", "fsdp", "deepspeed")
ENGINES = ("transformers", "vllm", "vllm_server")


def refusal(cfg: Config) -> str:
    """The messages of the checks, and of the build where the model has adapters; empty: accepted."""
    try:
        check_schema(cfg)
        rules.check_rules(cfg)
        if cfg["model"].get("lora") and cfg["rollout"]["_target_"].endswith("Transformers"):
            build(cfg)
    except (UserError, UserErrors) as error:
        return str(error) or repr(error)
    return ""


@pytest.fixture
def _any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages, disk and devices aside: whether the parts fit each other."""
    skipped = (rules.packages, rules.disk_space)
    monkeypatch.setattr(rules, "RULES", tuple(rule for rule in rules.RULES if rule not in skipped))


@pytest.mark.slow
@pytest.mark.usefixtures("_any_machine")
@pytest.mark.parametrize("row", table(DOCS / "support.md", "stage"), ids=lambda row: code(row[0]))
def test_support_matrix_is_accepted_by_the_checks(config: Callable[..., Config], row: list[str]) -> None:
    stage = code(row[0])
    accepted = dict(zip((*STRATEGIES, *ENGINES, "lora"), (cell == "yes" for cell in row[1:]), strict=True))
    for has_lora in (False, True):
        lora = ["+model/lora=default"] if has_lora else []
        base = config(f"stage={stage}", "trainer.accelerator=cpu", *NEEDS.get(stage, ()), *lora)
        for strategy in STRATEGIES:
            for engine in ENGINES:
                cfg = deepcopy(base)
                cfg["trainer"]["strategy"] = config(f"strategy={strategy}")["trainer"]["strategy"]
                cfg["trainer"]["devices"] = 1 if strategy == "single" else 2
                cfg["rollout"] = config(f"rollout={engine}")["rollout"]
                expected = accepted[strategy] and accepted[engine] and (accepted["lora"] or not has_lora)
                is_checked = expected or not has_lora or engine == "transformers"  # adapters are refused when built
                assert not is_checked or (refusal(cfg) == "") == expected, (strategy, engine, has_lora, refusal(cfg))


def test_support_matrix_has_every_stage() -> None:
    assert {code(row[0]) for row in table(DOCS / "support.md", "stage")} == {
        file.stem for file in (CONF / "stage").glob("[!_]*.yaml")
    }


@pytest.mark.slow
@pytest.mark.usefixtures("_any_machine")
@pytest.mark.parametrize("row", table(DOCS / "support.md", "override"), ids=lambda row: "-".join(map(code, row[:2])))
def test_combination_that_support_page_lists_is_refused(config: Callable[..., Config], row: list[str]) -> None:
    pair = [code(cell) for cell in row[:2]]
    stages = [word for word in pair if word.startswith("stage=")] or ["stage=grpo"]
    rest = [word for word in pair if word not in stages]
    extra = NEEDS.get(stages[0].partition("=")[2], ())
    devices = [] if "strategy=single" in pair else ["trainer.devices=2"] if any("strategy=" in w for w in pair) else []
    assert refusal(config(*stages, "trainer.accelerator=cpu", *extra, *rest, *devices))
