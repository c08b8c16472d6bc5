"""A sweep file says everything that is wrong with it at once, and what it lets through arrives as it was meant."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from r1.core.errors import CONFIG, UserError, UserErrors
from r1.experiment.sweep.file import load_yaml, read_sweep
from r1.experiment.sweep.parameters import KEYS_BY_DISTRIBUTION, NUMBER_KEYS
from r1.experiment.sweep.points import grid_values, num_points, points_to_check, values_to_check
from r1.experiment.sweep.schema import sweep_file_errors
from r1.experiment.sweep.values import intended_value, value_error

GOOD: dict[str, Any] = {
    "method": "grid",
    "metric": {"name": "val/pass@1", "goal": "maximize"},
    "parameters": {"stage.lr": {"values": [1.0e-4, 3.0e-4]}, "seed": {"values": [0, 1, 2]}},
    "command": ["${env}", "${interpreter}", "-m", "r1.run", "stage=grpo", "logger=wandb", "${args_no_hyphens}"],
}
RUN = GOOD["command"][:4]
Write = Callable[[dict[str, Any]], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: dict[str, Any]) -> str:
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return str(file)

    return written


def wrong(path: str) -> list[UserError]:
    with pytest.raises(UserError) as caught:
        read_sweep(path)
    assert caught.value.code == CONFIG
    if not isinstance(caught.value, UserErrors):
        return [caught.value]
    errors = list(caught.value.errors)
    assert errors[0].message.startswith(f"{path}: ")
    errors[0].message = errors[0].message.removeprefix(f"{path}: ")
    return errors


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The good file with some keys set; None: left out."""
    content = deepcopy(GOOD) | {key: value for key, value in changes.items() if value is not None}
    return {key: value for key, value in content.items() if changes.get(key, value) is not None}


def test_read_sweep_returns_the_content_of_a_valid_file(write: Write) -> None:
    sweep = read_sweep(write(GOOD))
    assert (sweep.name, sweep.method, sweep.metric, sweep.goal) == ("mine", "grid", "val/pass@1", "maximize")
    assert sweep.overrides({"stage.lr": 1e-4, "seed": 2}) == ["stage=grpo", "logger=wandb", "stage.lr=0.0001", "seed=2"]
    assert num_points(sweep) == 6
    assert points_to_check(sweep) == [{"stage.lr": 1e-4, "seed": 0}, {"stage.lr": 3e-4, "seed": 0}]


TOP = [
    ({"method": None}, "method", "grid, random or bayes"),
    ({"method": "gird"}, "method", "did you mean `grid`?"),
    ({"method": "custom"}, "method", ""),
    ({"metric": None}, "metric", "val/pass@1"),
    ({"metric": "val/pass@1"}, "metric", "goal: maximize"),
    ({"metric": {"name": "val/pass@1"}}, "metric.goal", "without it W&B minimises"),
    ({"metric": {"name": "val/pass@1", "goal": "maximise"}}, "metric.goal", "did you mean `maximize`?"),
    ({"metric": {"name": "val/pass@1", "goal": "maximize", "target": 0.9}}, "metric.target", ""),
    ({"parameters": None}, "parameters", "values: [4, 8]"),
    ({"parameters": {}}, "parameters", "values: [4, 8]"),
    ({"paramters": {}}, "paramters", "did you mean `parameters`?"),
    ({"program": "train.py"}, "program", "command says what is run"),
    ({"scheduler": {"engine": "optuna"}}, "scheduler", "r1.sweep"),
    ({"name": 7}, "name", ""),
    ({"run_cap": 0}, "run_cap", ""),
    ({"run_cap": True}, "run_cap", ""),
    ({"early_terminate": "hyperband"}, "early_terminate", "type: hyperband"),
    ({"early_terminate": {"type": "hyperband"}}, "early_terminate", "min_iter: 3"),
    ({"early_terminate": {"type": "envelope", "min_iter": 2}}, "early_terminate.type", ""),
    (
        {"early_terminate": {"type": "hyperband", "min_iters": 2, "min_iter": 1}},
        "early_terminate.min_iters",
        "min_iter",
    ),
    ({"early_terminate": {"type": "hyperband", "max_iter": 9}}, "early_terminate.max_iter", "min_iter alone"),
    ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, "early_terminate.min_iter", ""),
    ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}}, "early_terminate.eta", ""),
    ({"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": "yes"}}, "early_terminate.strict", ""),
    ({"command": None}, "command", "--KEY=VALUE"),
    ({"command": "python -m r1.run"}, "command", "${args_no_hyphens}"),
    ({"command": [*RUN, {"logger": "wandb"}, "${args_no_hyphens}"]}, "command", "logger=wandb"),
    ({"command": ["${env}", "python", "train.py", "${args_no_hyphens}"]}, "command", "r1.run"),
    ({"command": [*RUN, "logger=wandb"]}, "command", "behind the overrides"),
    ({"command": [*RUN, "${args_no_hyphens}", "${args_no_hyphens}"]}, "command", "leave one"),
    ({"command": [*RUN, "${args}", "${args_no_hyphens}"]}, "command", "write ${args_no_hyphens}"),
    ({"command": [*RUN, "${arg_no_hyphens}", "${args_no_hyphens}"]}, "command", "did you mean `${args_no_hyphens}`?"),
    ({"command": [*RUN, "${prgram}", "${args_no_hyphens}"]}, "command", ""),
    ({"command": [*RUN, "-m", "${args_no_hyphens}"]}, "command", "leave out the -m"),
]


@pytest.mark.parametrize(("changes", "key", "do"), TOP, ids=[f"{key}-{i}" for i, (_, key, _) in enumerate(TOP)])
def test_sweep_file_errors_name_the_key_and_the_fix(write: Write, changes: dict[str, Any], key: str, do: str) -> None:
    errors = wrong(write(changed(changes)))
    assert key in [error.key for error in errors]
    assert do in " ".join(error.hint for error in errors if error.key == key)


PARAMETERS = [
    ([1, 2], "", "values: [1, 2]"),
    (3, "", "value: 3"),
    ({"parameters": {"lr": {"value": 1}}}, "", "stage.lr.lr"),
    ({"value": None}, ".value", 'write "null"'),
    ({"values": [1, None]}, ".values[1]", 'write "null"'),
    ({"value": {"a": 1}}, ".value", "stage.lr.a"),
    ({"values": "1, 2"}, ".values", "values: [1, 2]"),
    ({"values": []}, ".values", ""),
    ({"values": [1, 1]}, ".values[1]", "leave one out"),
    ({"values": ["1e-5", 1.0e-4]}, ".values[0]", "write 1.0e-05"),
    ({"value": "5"}, ".value", "write 5"),
    ({"value": "true"}, ".value", "without the quotes"),
    ({"value": "a,b"}, ".value", "\"'a,b'\""),
    ({"value": "[1, 2]"}, ".value", "without the quotes"),
    ({"value": "it's"}, ".value", ""),
    ({"value": [True, None]}, ".value", "plain numbers"),
    ({"valeu": 1}, ".valeu", "did you mean `value`?"),
    ({"min": 1}, "", "min: X and max: Y"),
    ({"min": 1, "max": 3, "distribution": "log_unifrom_values"}, ".distribution", "log_uniform_values"),
    ({"min": 1, "max": 3, "q": 2}, ".q", "leave out q"),
    ({"min": 1.0, "max": 3.0, "q": 2}, ".q", "distribution: q_uniform"),
    ({"value": 1, "values": [1]}, ".values", "leave out values"),
    ({"distribution": "uniform", "min": 0.1}, ".max", "max: ..."),
    ({"distribution": "log_uniform_values", "min": "1e-6", "max": 0.1}, ".min", "write 1.0e-06"),
    ({"distribution": "uniform", "min": True, "max": 2}, ".min", ""),
    ({"min": 0.3, "max": 0.1}, ".min", "swap them"),
    ({"min": 2, "max": 2}, ".min", "value: 2"),
    ({"distribution": "int_uniform", "min": 0.5, "max": 2}, ".min", "distribution: uniform"),
    ({"distribution": "log_uniform_values", "min": 0.0, "max": 1.0}, ".min", ""),
    ({"distribution": "log_uniform", "min": 1.0e-5, "max": 1.0e-3}, ".min", "distribution: log_uniform_values"),
    ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0}, ".q", ""),
    ({"distribution": "normal", "mu": 0.0, "sigma": -1}, ".sigma", ""),
    ({"distribution": "log_normal", "mu": 0.0, "sigma": 250.0}, ".sigma", ""),
    ({"distribution": "q_log_normal", "mu": 100, "sigma": 20}, ".sigma", ""),
    ({"distribution": "log_normal", "mu": -800.0}, ".mu", ""),
    ({"distribution": "log_uniform", "min": -1, "max": 800}, ".max", ""),
    ({"distribution": "q_log_uniform", "min": -900, "max": 2}, ".min", ""),
    ({"distribution": "inv_log_uniform", "min": 0, "max": 1000}, ".max", ""),
    ({"distribution": "log_uniform_values", "min": 1.0e-320, "max": 1.0}, ".min", ""),
    ({"distribution": "q_uniform", "min": 0.0, "max": 1.0e99, "q": 1.0e-99}, ".q", ""),
    ({"distribution": "q_normal", "mu": 0.0, "sigma": 1.0e50, "q": 1.0}, ".q", ""),
    ({"distribution": "q_log_normal", "q": 1.0e-300}, ".q", ""),
    ({"distribution": "int_uniform", "min": 0, "max": 10**40}, ".max", ""),
    ({"values": [1, 2], "probabilities": [0.5, 0.6]}, ".probabilities", ""),
    ({"values": [1, 2], "probabilities": [1.0]}, ".probabilities", ""),
]


@pytest.mark.parametrize(("spec", "key", "do"), PARAMETERS, ids=[json.dumps(spec) for spec, _, _ in PARAMETERS])
def test_parameter_errors_name_the_key_and_the_fix(write: Write, spec: Any, key: str, do: str) -> None:
    (error,) = wrong(write(changed({"method": "random", "parameters": {"stage.lr": spec}})))
    assert error.key == f"parameters.stage.lr{key}"
    assert do in error.hint


@pytest.mark.parametrize("spec", [{"min": 0.1, "max": 0.3}, {"distribution": "normal"}])
def test_grid_rejects_ranges(write: Write, spec: dict[str, Any]) -> None:
    (error,) = wrong(write(changed({"parameters": {"stage.lr": spec}})))
    assert (error.message, error.hint) == ("a grid needs a list of values", "values: [...], or method: random")


def test_sweep_file_errors_are_reported_together(write: Write) -> None:
    specs = {"stage.lr": {"value": None}, "seed": {"min": 3, "max": 1}}
    errors = wrong(write(changed({"method": "gird", "metric": {"name": "x"}, "parameters": specs})))
    assert [e.key for e in errors] == ["method", "metric.goal", "parameters.stage.lr.value", "parameters.seed.min"]


@pytest.mark.parametrize(
    ("text", "line", "do"),
    [
        ("method: grid\nmetric: {name: [\n", 3, "expected"),
        ("method: grid\nparameters:\n  seed: {value: 1}\n  seed: {value: 2}\n", 4, "`seed` occurs twice"),
        ("method: grid\n\tmetric: x\n", 2, "\\t"),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(tmp_path: Path, text: str, line: int, do: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    (error,) = wrong(str(file))
    assert (error.message, error.key) == ("this is not YAML", f"{file}:{line}")
    assert do in error.hint


def test_missing_or_unreadable_sweep_file_is_rejected(tmp_path: Path) -> None:
    (gone,) = wrong(str(tmp_path / "none.yaml"))
    assert (gone.key, gone.value) == ("FILE", str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    assert wrong(str(tmp_path / "list.yaml"))[0].key == "file"
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    assert wrong(str(tmp_path / "binary.yaml"))[0].message == "the sweep file is not text"


PLAIN = st.one_of(st.integers(), st.floats(), st.booleans(), st.none())
TEXTS = st.one_of(
    st.text(max_size=12),
    st.text("0123456789.eE+-_ \\'\"[]{}(),:=$#", max_size=8),
    st.sampled_from(["null", "None", "true", "FALSE", "1e-5", "07", "inf", "nan", "'a b'", '"x"', "${seed}", "a:b"]),
)
SCALARS = st.one_of(PLAIN, TEXTS)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.lists(st.lists(SCALARS, max_size=2), max_size=2),
    st.dictionaries(st.text("ab", min_size=1), PLAIN, max_size=2),
)  # fmt: skip


@settings(max_examples=60)
@given(VALUES)
def test_accepted_values_reach_hydra_unchanged(value: Any) -> None:
    if value_error(value, "parameters.x.value") is None:
        override = OverridesParser.create().parse_rule(f"x={value}", "override")
        assert not override.is_sweep_override()
        assert json.dumps(override.value()) == json.dumps(intended_value(value))


@settings(max_examples=60)
@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.from_regex(r"[a-z][a-z0-9_/.-]{0,9}", fullmatch=True)))
def test_value_error_accepts_plain_values(value: Any) -> None:
    if value not in ("null", "true", "false", "inf", "nan"):
        assert intended_value(value) is value
        assert value_error(value, "parameters.x.value") is None


@settings(max_examples=60)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_hint_for_a_number_as_text_is_that_number(value: float) -> None:
    error = value_error(str(value), "parameters.x.value")
    assert error is not None
    assert yaml.safe_load(error.hint.removeprefix("write ")) == value


def test_grid_values_match_wandb() -> None:
    """W&B's engine leaves out the upper end of q_uniform, as numpy's arange does."""
    assert grid_values({"value": "a"}) == ["a"]
    assert grid_values({"min": 2, "max": 5}) == [2, 3, 4, 5]
    assert grid_values({"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.1}) == [0.0, 0.1, 0.2]
    assert grid_values({"distribution": "q_uniform", "min": 0, "max": 10, "q": 4}) == [0, 4, 8]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"min": 1, "max": 9}, [5, 1, 9]),
        ({"min": 0.5, "max": 1.5}, [1.0, 0.5, 1.5]),
        ({"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2}, [1e-3, 1e-4, 1e-2]),
        ({"distribution": "inv_log_uniform_values", "min": 1.0e-4, "max": 1.0e-2}, [1e-3, 1e-4, 1e-2]),
        ({"distribution": "log_uniform", "min": 0, "max": 2}, [2.718281828, 1.0, 7.389056099]),
        ({"distribution": "inv_log_uniform", "min": 0, "max": 2}, [0.367879441, 0.135335283, 1.0]),
        ({"distribution": "q_log_uniform_values", "min": 8, "max": 512, "q": 8}, [64, 8, 512]),
        ({"distribution": "normal", "mu": 1.0, "sigma": 2.0}, [1.0, -5.0, 7.0]),
        ({"distribution": "q_normal", "mu": 10, "sigma": 3, "q": 2}, [10, 0, 20]),
        ({"distribution": "log_normal"}, [1.0, 0.049787068, 20.085536923]),
        ({"distribution": "beta", "a": 1, "b": 3}, [0.25, 0.0, 1.0]),
        ({"values": [3, 1, 2], "probabilities": [0.5, 0.25, 0.25]}, [3, 1, 2]),
    ],
)
def test_values_to_check_are_the_middle_and_the_ends(spec: dict[str, Any], expected: list[float]) -> None:
    assert values_to_check(spec) == pytest.approx(expected, rel=1e-8)


def test_points_to_check_sample_a_large_grid_and_cover_every_value(write: Write) -> None:
    specs = {"a": {"min": 1, "max": 50}, "b": {"values": list("xyz")}, "seed": {"min": 0, "max": 99}}
    sweep = read_sweep(write(changed({"parameters": specs})))
    points = points_to_check(sweep)
    assert num_points(sweep) == 50 * 3 * 100
    assert {1, 50} <= {point["a"] for point in points[:40]}
    assert len({point["a"] for point in points[:40]}) == 40
    assert {point["b"] for point in points} == set("xyz")
    assert {point["seed"] for point in points} == {0}
    assert 42 < len(points) <= 42 + 40
    assert points == points_to_check(sweep)


def test_points_to_check_do_not_enumerate_huge_ranges(write: Write) -> None:
    specs = {
        "seed": {"min": 0, "max": 10**12},
        "stage.lr": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 1e-9},
    }
    sweep = read_sweep(write(changed({"parameters": specs})))
    assert num_points(sweep) == (10**12 + 1) * 10**9
    assert [point["stage.lr"] for point in points_to_check(sweep)][:2] == [0.0, 0.025641025]


def test_overrides_resolve_envvar_macros(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM", "red")
    command = [*RUN, "logger.group=${envvar:TEAM}-1", "${envvar:NONE}", "${args_no_hyphens}"]
    assert read_sweep(write(changed({"command": command}))).overrides({"seed": 1}) == [
        "logger.group=red-1",
        "NONE",
        "seed=1",
    ]


KEYS = [
    "value",
    "values",
    "distribution",
    "min",
    "max",
    "q",
    "mu",
    "sigma",
    "a",
    "b",
    "probabilities",
    "parameters",
    "x",
]
NUMBER = st.one_of(st.integers(-9, 9), st.floats(), st.sampled_from([10**400, True, "1e-3"]))
SPECS = st.one_of(
    VALUES,
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    st.fixed_dictionaries(
        {"distribution": st.sampled_from(sorted(KEYS_BY_DISTRIBUTION))},
        optional=dict.fromkeys(NUMBER_KEYS, NUMBER) | {"value": SCALARS, "values": st.lists(SCALARS, max_size=3)},
    ),
)


@settings(max_examples=150)
@given(SPECS, st.booleans())
def test_sweep_file_errors_handle_any_parameter(spec: Any, in_grid: bool) -> None:
    content = changed({"method": "grid" if in_grid else "random", "parameters": {"stage.lr": spec}})
    errors = sweep_file_errors(content)
    assert all(error.key.startswith("parameters.stage.lr") for error in errors)
    if not errors:
        values = grid_values(spec, 5) if in_grid else values_to_check(spec)
        assert 1 <= len(values) <= 5 or "values" in spec


def exploding(first: str, form: str) -> str:
    """30 lines, the last of which stands for 9^29 values."""
    lines = [f"a{i}: &a{i} {form}" % ", ".join([f"*a{i - 1}"] * 9) for i in range(1, 30)]
    return "\n".join([f"a0: &a0 {first}", *lines])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (exploding("[1, 1]", "[%s]"), "aliases"),
        (exploding("{x: 1}", "{<<: [%s]}"), "aliases"),
        ("a: &a [*a]", "aliases"),
        ("[" * 20_000, "nested"),
        ("{a: " * 20_000, "nested"),
    ],
)
def test_load_yaml_of_an_exploding_text_is_an_error_at_once(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    started = time.monotonic()
    with pytest.raises(UserError, match="not YAML") as caught:
        load_yaml(str(tmp_path / "sweep.yaml"))
    assert hint in caught.value.hint
    assert time.monotonic() - started < 5
