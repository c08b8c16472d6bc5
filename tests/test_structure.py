"""The architecture: an option is a YAML and a module, a key is a parameter, every option composes, one file builds."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest
from hubsets import BENCHMARKS
from omegaconf import OmegaConf

from examples.smollm2 import fetch
from r1.config.check.config import check_schema
from r1.config.check.schema import META, resolve, signature
from r1.config.overrides import parse_command_line
from r1.core.paths import CONF
from r1.core.types import Config
from r1.experiment.pipeline.parse import parse_pipelines
from r1.experiment.pipeline.plan import plan_pipeline

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
    "stage/importance",
    "stage/loss",
    "stage/optimizer",
    "strategy",
    "teacher",
)
VALUES = ("callbacks", "experiment", "model", "model/lora", "model/recipe", "reward", "stage/filters")  # values only
MOUNTS = {"reward/terms": "reward.terms.it", "stage/filters": "stage.filters.it"}  # groups whose options get a name
NODES = MOUNTS | {"strategy": "trainer.strategy"}  # config key of an option's node, where it is not the group's own
NEEDED_STAGE = {  # the stage in whose config a group exists, where it is not the default one
    "teacher": "stage=distill",
    "stage/filters": "stage=distill",
    "stage/divergence": "stage=distill_logits",
}
NON_PARAMETERS = {r"reward\.terms\.\w+": ("weight",), r"stage\.filters\.\w+": ("min", "max")}  # read by the mount
EXTENDS_LIGHTNING = ("train/*", "strategy/*", "logger/*", "stage/base")
Compose = Callable[..., Config]


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_"))


def modules(group: str) -> set[str]:
    return {file.stem for file in (ROOT / "r1" / group).glob("*.py")} - {"__init__"}


def node_key(group: str) -> str:
    return NODES.get(group, group.replace("/", "."))


def overrides(group: str, option: str) -> list[str]:
    """The command line that selects one option of a group, with a value for every key that it requires."""
    values = OmegaConf.load(CONF / group / f"{option}.yaml")
    required = [f"{node_key(group)}.{key}=x" for key in OmegaConf.missing_keys(values)]
    if group == "model" and required:  # any model, without defaults for its size
        required = ["model.path=r1:tiny", "+model/recipe=tiny"]
    stage = [NEEDED_STAGE[group]] if group in NEEDED_STAGE else []
    if group in MOUNTS:
        return [f"+{group}@{MOUNTS[group]}={option}", *stage, *required]
    model = ["model.path=a/model"] if group == "model/recipe" and option != "tiny" else []  # of unknown size
    return [f"{'+' if group == 'model/lora' else ''}{group}={option}", *stage, *model, *required]


@pytest.fixture(scope="module")
def composed(config: Compose) -> Compose:
    """``composed(group, option)``: the default config with this option."""
    return lru_cache(maxsize=None)(lambda group, option: config(*overrides(group, option)))


PIPELINES = [name for name in options("experiment") if "\nsteps:" in (CONF / "experiment" / f"{name}.yaml").read_text()]
ALL = [(group, option) for group in (*GROUPS, *VALUES) for option in options(group) if option not in PIPELINES]


def node_of(cfg: Config, group: str) -> Config:
    for part in node_key(group).split("."):
        cfg = cfg[part]
    return cfg


def test_every_config_group_is_listed() -> None:
    groups = {folder.relative_to(CONF).as_posix() for folder in CONF.rglob("*") if folder.is_dir()}
    assert groups == {*GROUPS, *VALUES, "experiment/papers"}  # tests/experiment/test_papers.py


@pytest.mark.parametrize(("group", "option"), ALL)
def test_option_composes_into_a_config_that_fits_the_code(composed: Compose, group: str, option: str) -> None:
    cfg = composed(group, option)
    check_schema(cfg)
    values = OmegaConf.load(CONF / group / f"{option}.yaml")
    root = "# @package _global_" in (CONF / group / f"{option}.yaml").read_text()
    node = cfg if root else node_of(cfg, group)
    assert {str(key) for key in values} - {"defaults"} <= node.keys()
    assert not root or all(node.get(key) is not None for key in values if key != "defaults")


OF_EXPERIMENT = {"benchmarks": ["model.path=r1:tiny", "data/template=r1_zero", "rollout.max_completion_length=99"]}


@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline_steps_compose_and_fit_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "r1/assets/tiny", tmp_path / fetch.FOLDER)  # in place of the model that `make real` fetches
    args, overrides = parse_command_line([f"experiment={name}", "seeds=[0]", *OF_EXPERIMENT.get(name, [])])
    for option in OmegaConf.load(CONF / "experiment" / f"{name}.yaml").steps if name == "benchmarks" else ():
        BENCHMARKS[option](tmp_path / OmegaConf.load(CONF / "data" / f"{option}.yaml").path)
    (pipeline,) = parse_pipelines(args, overrides, {})
    assert [node.step for node in plan_pipeline(args, pipeline, {}).nodes] == list(pipeline.steps)


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in options(g)])
def test_option_targets_the_object_of_its_name(composed: Compose, group: str, option: str) -> None:
    target = node_of(composed(group, option), group)["_target_"]
    module, _, name = target.rpartition(".")
    assert module == f"r1.{group.replace('/', '.')}.{option}"
    assert name == option or name.lower() == option.replace("_", ""), "a function has its name, a class its CamelCase"


@pytest.mark.parametrize("option", options("stage/filters"))
def test_filter_is_a_reward_term_with_bounds(composed: Compose, option: str) -> None:
    node = node_of(composed("stage/filters", option), "stage/filters")
    module, _, term = node["_target_"].rpartition(".")
    assert module == f"r1.reward.terms.{term}"
    assert set(node) - {"min", "max"} == set(node_of(composed("reward/terms", term), "reward/terms")) - {"weight"}
    assert (node["min"], node["max"]) != (None, None)


@pytest.mark.parametrize("group", GROUPS)
def test_module_of_a_group_is_an_option_or_imported_by_one(group: str) -> None:
    """A module without a YAML file is imported by another module of its group: none is unreachable."""
    package = f"r1.{group.replace('/', '.')}"
    imported = {name for file in (ROOT / "r1" / group).glob("*.py") for name in imports(file, top=False)}
    helpers = modules(group) - set(options(group))
    assert set(options(group)) <= modules(group)
    assert {helper for helper in helpers if f"{package}.{helper}" not in imported} == set()


@pytest.mark.parametrize(("group", "option"), ALL)
def test_keys_are_the_keyword_only_parameters(composed: Compose, group: str, option: str) -> None:
    cfg = composed(group, option)
    for key, node in nodes(cfg):
        parameters = signature(resolve(node["_target_"], key))
        if not node["_target_"].startswith("r1."):  # of Lightning, whose parameters have defaults
            assert set(node) - set(META) <= set(parameters.runtime) | set(parameters.knobs), key
            continue
        extra = set(next((keys for pattern, keys in NON_PARAMETERS.items() if re.fullmatch(pattern, key)), ()))
        assert set(node) - set(META) - extra == set(parameters.knobs) | ({"filters"} & set(parameters.runtime)), key


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, Config]]:
    """(config key, node) of every node with a target."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, part in node.items():
            yield from nodes(part, f"{path}.{key}".lstrip("."))


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in (*GROUPS, "model", "model/lora") for o in options(g)])
def test_knobs_are_typed_and_have_no_default(composed: Compose, group: str, option: str) -> None:
    node = node_of(composed(group, option), group)
    parameters = signature(resolve(node["_target_"], group))
    assert parameters.required == set(parameters.knobs)
    assert Any not in parameters.knobs.values()
    assert float not in parameters.knobs.values(), "a number needs its range"
    assert int not in parameters.knobs.values(), "a number needs its range"


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: file.relative_to(CONF).as_posix())
def test_config_key_has_a_comment_on_its_line(file: Path) -> None:
    text = file.read_text()
    keys = [line for line in text.splitlines() if re.match(r" *[A-Za-z]\w*: *[^ #]", line)]
    assert [line for line in keys if not re.search(r" # \S", line) and "defaults:" not in line] == []
    assert text.startswith("#") or re.match(r"_target_: \S+  # \S", text), "says in its first line what it is"


def imports(file: Path, top: bool) -> set[str]:
    """Modules that a file imports: all of them, or only those that importing the file imports."""
    tree = parsed(file)
    names = set()
    for node in at_import(tree) if top else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements outside functions, and outside ``if TYPE_CHECKING``."""
    for node in tree.body:
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node


def test_hydra_builds_no_objects() -> None:
    """All objects of a config come from r1/config/build.py, which knows the key of each."""
    assert not [file for file in CODE if any(name.startswith("hydra.utils") for name in imports(file, top=False))]


def test_lightning_is_imported_only_where_it_is_extended() -> None:
    importers = {file.relative_to(ROOT / "r1").with_suffix("") for file in CODE if imports_lightning(file)}
    assert {path for path in importers if not any(path.match(pattern) for pattern in EXTENDS_LIGHTNING)} == set()


def imports_lightning(file: Path) -> bool:
    return any(name.split(".")[0] == "lightning" for name in imports(file, top=True))


def test_no_pickle_and_no_remote_code() -> None:
    for file in CODE:
        tree = parsed(file)
        modules = {"pickle", "cloudpickle", "dill", "joblib"} & imports(file, top=False)
        if modules == {"pickle"}:  # reads an index that torch writes, with an unpickler that has an allow-list
            used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert {name for name in used if name.startswith("pickle.")} == {
                "pickle.Unpickler",
                "pickle.UnpicklingError",
            }
            assert "def find_class" in file.read_text(), file
        else:
            assert not modules, file
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        runs_programs = file.name == "code_harness.py"  # inside the sandbox alone
        assert not names & {"eval", "exec", "os.system", "__import__"} - ({"exec"} if runs_programs else set()), file
        assert "trust_remote_code" not in {keyword.arg for call in calls for keyword in call.keywords}, file
        loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
        assert all("weights_only=True" in ast.unparse(call) for call in loads), file


@pytest.mark.parametrize(("argv", "line"), [(["--cfg", "job"], "group_size: 8"), (["--help"], "stage/loss")])
def test_showing_the_config_does_not_import_torch(tmp_path: Path, argv: list[str], line: str) -> None:
    slow = {"torch", "transformers", "lightning", "pydantic", "datasets", "scipy"}
    code = f"import sys; from r1.run import main; main(); sys.exit(sorted({slow} & set(sys.modules)) or None)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert line in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_files_and_functions_stay_small() -> None:
    """A file is one topic: usually 100 to 300 lines, up to 500; half of the functions have at most 12 lines."""
    lengths = {file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in CODE}
    assert {name: length for name, length in lengths.items() if length > 500} == {}
    sizes = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for file in CODE
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.FunctionDef)
    )
    assert sizes[len(sizes) // 2] <= 12
    assert sizes[len(sizes) * 9 // 10] <= 40


# ---- names ----


def test_top_level_module_is_a_command() -> None:
    """A file at the top of r1/ is a command, a folder is a part; ``library.py`` has the package's own functions."""
    files = [file for file in CODE if file.parent == ROOT / "r1"]
    commands = [file for file in files if file.stem not in ("__init__", "library")]
    assert {file.stem for file in commands if "main" not in public_names(file, ast.FunctionDef)} == set()


def public_names(file: Path, kind: type[ast.ClassDef | ast.FunctionDef]) -> set[str]:
    """Names of the public classes or functions of a module, without the object that is an option."""
    group = file.parent.relative_to(ROOT / "r1").as_posix()
    option = file.stem.replace("_", "") if group in GROUPS else ""
    names = {node.name for node in parsed(file).body if isinstance(node, kind)}
    return {name for name in names if not name.startswith("_") and name.replace("_", "").lower() != option}


def defined_twice(kind: type[ast.ClassDef | ast.FunctionDef], package: bool) -> set[str]:
    """Public names that two modules define: two of one package, or any two."""
    files = defaultdict(list)
    for file in CODE:
        for name in public_names(file, kind) - {"main"}:
            prefix = f"{file.parent.relative_to(ROOT).as_posix()}/" if package else ""
            files[prefix + name].append(file)
    return {name for name, modules in files.items() if len(modules) > 1}


def test_public_class_name_has_one_meaning() -> None:
    assert defined_twice(ast.ClassDef, package=False) == set()


def test_public_function_name_has_one_meaning_in_its_package() -> None:
    assert defined_twice(ast.FunctionDef, package=True) == set()
