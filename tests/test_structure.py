"""The architecture, kept true: a group is a place, a key is a parameter, every option composes, one file builds."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from r1.config.check.config import check_schema
from r1.config.check.schema import META, resolve, signature
from r1.config.overrides import read
from r1.core.paths import CONF
from r1.experiment.pipeline.parse import pipelines
from r1.experiment.pipeline.plan import plan

ROOT = CONF.parent
CODE = sorted((ROOT / "r1").rglob("*.py"))
GROUPS = (  # those with code: conf/<group>/<option>.yaml is r1/<group>/<option>.py
    "data",
    "data/template",
    "data/verifier",
    "logger",
    "reward/terms",
    "rollout",
    "stage",
    "stage/advantage",
    "stage/divergence",
    "stage/loss",
    "strategy",
    "teacher",
)
VALUES = ("experiment", "model", "model/lora", "reward", "stage/filters")  # values only
NAMED = {"reward/terms": "reward.terms.it", "stage/filters": "stage.filters.it"}  # added under a name
PLACES = NAMED | {"strategy": "trainer.strategy"}  # where an option's node lies, if not under the group's own name
LOGGERS = {f"logger/{name}" for name in ("base", "csv", "tensorboard", "wandb")}
LIGHTNING = {  # modules that extend it
    *(f"train/{name}" for name in ("checkpoint", "checkpoint_files", "progress", "record", "trainer")),
    *("stage/base", "strategy/deepspeed", "strategy/fsdp"),
    *LOGGERS,
}
EXTRA = {r"reward\.terms\.\w+": ("weight",), r"stage\.filters\.\w+": ("min", "max")}  # what is no knob of the target
Config = dict[str, Any]
Compose = Callable[..., Config]


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_"))


def modules(group: str) -> set[str]:
    return {file.stem for file in (ROOT / "r1" / group).glob("*.py")} - {"__init__"}


def overrides(group: str, option: str) -> list[str]:
    """How one option of a group is chosen."""
    needs = {"jsonl": ["data.path=x.jsonl"], "traces": ["data.path=x"]}
    path = ["reward.terms.it.path=x"] if option == "preference" else []
    plus = "+" if group == "model/lora" else ""
    stage = {
        "teacher": ["stage=distill"],
        "stage/filters": ["stage=distill"],
        "stage/divergence": ["stage=distill_logits"],
    }.get(group, [])
    if group in NAMED:
        return [f"+{group}@{NAMED[group]}={option}", *stage, *path]
    return [f"{plus}{group}={option}", *stage, *(needs.get(option, []) if group == "data" else [])]


@pytest.fixture(scope="module")
def chosen(config: Compose) -> Compose:
    """``chosen(group, option)``: the default config with this option, composed once."""
    return lru_cache(maxsize=None)(lambda group, option: config(*overrides(group, option)))


PIPELINES = [name for name in options("experiment") if "\nsteps:" in (CONF / "experiment" / f"{name}.yaml").read_text()]
ALL = [(group, option) for group in (*GROUPS, *VALUES) for option in options(group) if option not in PIPELINES]


def node_of(cfg: Config, group: str) -> Config:
    for part in PLACES.get(group, group.replace("/", ".")).split("."):
        cfg = cfg[part]
    return cfg


def test_every_group_is_known() -> None:
    found = {folder.relative_to(CONF).as_posix() for folder in CONF.rglob("*") if folder.is_dir()}
    assert found == {*GROUPS, *VALUES}


@pytest.mark.parametrize(("group", "option"), ALL)
def test_every_option_composes_and_fits_the_code(chosen: Compose, group: str, option: str) -> None:
    check_schema(chosen(group, option))


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_of_a_pipeline_composes_and_fits_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    args, overrides = read([f"experiment={name}", "seeds=[0]"])
    (pipeline,) = pipelines(args, overrides, {})
    assert [node.step for node in plan(args, pipeline, {}).nodes] == list(pipeline.steps)


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in options(g)])
def test_an_option_is_the_object_of_its_name(chosen: Compose, group: str, option: str) -> None:
    target = node_of(chosen(group, option), group)["_target_"]
    module, _, name = target.rpartition(".")
    assert module == f"r1.{group.replace('/', '.')}.{option}"
    assert name == option or name.lower() == option.replace("_", ""), "a function has its name, a class its CamelCase"


@pytest.mark.parametrize("option", options("stage/filters"))
def test_a_filter_is_a_reward_term_and_its_bounds(chosen: Compose, option: str) -> None:
    node = node_of(chosen("stage/filters", option), "stage/filters")
    place, _, term = node["_target_"].rpartition(".")
    assert place == f"r1.reward.terms.{term}"
    assert set(node) - {"min", "max"} == set(node_of(chosen("reward/terms", term), "reward/terms")) - {"weight"}
    assert (node["min"], node["max"]) != (None, None)


@pytest.mark.parametrize("group", GROUPS)
def test_every_module_is_an_option_or_helps_one(group: str) -> None:
    """What is no option is imported by another module of its group: nothing there is out of reach."""
    package = f"r1.{group.replace('/', '.')}"
    imported = {name for file in (ROOT / "r1" / group).glob("*.py") for name in imports(file, top=False)}
    helpers = modules(group) - set(options(group))
    assert set(options(group)) <= modules(group)
    assert {helper for helper in helpers if f"{package}.{helper}" not in imported} == set()


@pytest.mark.parametrize(("group", "option"), ALL)
def test_keys_are_the_keyword_only_parameters(chosen: Compose, group: str, option: str) -> None:
    cfg = chosen(group, option)
    for where, node in nodes(cfg):
        found = signature(resolve(node["_target_"], where))
        extra = set(next((keys for place, keys in EXTRA.items() if re.fullmatch(place, where)), ()))
        assert set(node) - set(META) - extra == set(found.knobs) | ({"filters"} & set(found.runtime)), where


def nodes(node: Any, where: str = "") -> Iterator[tuple[str, Config]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, part in node.items():
            yield from nodes(part, f"{where}.{key}".lstrip("."))


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in (*GROUPS, "model", "model/lora") for o in options(g)])
def test_knobs_are_typed_and_have_no_default(chosen: Compose, group: str, option: str) -> None:
    node = node_of(chosen(group, option), group)
    found = signature(resolve(node["_target_"], group))
    assert found.required == set(found.knobs)
    assert Any not in found.knobs.values()
    assert float not in found.knobs.values(), "a number needs its range"
    assert int not in found.knobs.values(), "a number needs its range"


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: file.relative_to(CONF).as_posix())
def test_every_key_is_explained_on_its_line(file: Path) -> None:
    text = file.read_text()
    keys = [line for line in text.splitlines() if re.match(r" *[A-Za-z]\w*: *[^ #]", line)]
    assert [line for line in keys if not re.search(r" # \S", line) and "defaults:" not in line] == []
    assert text.startswith("#") or re.match(r"_target_: \S+  # \S", text), "says in its first line what it is"


def imports(file: Path, top: bool) -> set[str]:
    """Modules that a file imports: all of them, or only those that importing the file imports."""
    tree = ast.parse(file.read_text())
    found = set()
    for node in at_import(tree) if top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements outside functions, and outside ``if TYPE_CHECKING``."""
    for node in tree.body:
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node


def test_one_file_builds_objects_from_a_config() -> None:
    callers = {
        file.relative_to(ROOT).as_posix()
        for file in CODE
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "instantiate"
    }
    assert callers == {"r1/config/build.py"}


def test_lightning_is_imported_where_it_is_extended_and_nowhere_else() -> None:
    found = {file.relative_to(ROOT / "r1").with_suffix("").as_posix() for file in CODE if extends_lightning(file)}
    assert found == LIGHTNING


def extends_lightning(file: Path) -> bool:
    return any(name.split(".")[0] == "lightning" for name in imports(file, top=True))


def test_no_pickle_and_no_remote_code() -> None:
    for file in CODE:
        tree = ast.parse(file.read_text())
        found = {"pickle", "cloudpickle", "dill", "joblib"} & imports(file, top=False)
        if found == {"pickle"}:  # to read an index that torch writes: with an unpickler that finds what it is told
            used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert {name for name in used if name.startswith("pickle.")} == {
                "pickle.Unpickler",
                "pickle.UnpicklingError",
            }
            assert "def find_class" in file.read_text(), file
        else:
            assert not found, file
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        assert not names & {"eval", "exec", "os.system", "__import__"}, file
        assert "trust_remote_code" not in {keyword.arg for call in calls for keyword in call.keywords}, file
        loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
        assert all("weights_only=True" in ast.unparse(call) for call in loads), file


@pytest.mark.parametrize("words", [["--cfg", "job"], ["--help"]])
def test_a_look_at_the_config_does_not_wait_for_torch(tmp_path: Path, words: list[str]) -> None:
    code = (
        "import sys; from r1.run import main; main(); "
        "sys.exit(sorted({'torch', 'transformers', 'lightning', 'pydantic', 'datasets'} & set(sys.modules)) or None)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "group_size: 8" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_files_and_functions_stay_small() -> None:
    """Around 100 lines to a file and 12 to a function; the limits catch what runs away, not what is a line over."""
    lengths = {file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in CODE}
    assert {name: length for name, length in lengths.items() if length > 300} == {}
    sizes = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for file in CODE
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    )
    assert sizes[len(sizes) // 2] <= 12
    assert sizes[len(sizes) * 9 // 10] <= 40
