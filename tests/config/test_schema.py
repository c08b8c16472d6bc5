"""The schema is read off the code: signatures, types in words, the allow-list, and which target fits which type."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypedDict, Unpack

import pytest
from annotated_types import Ge, Gt, Interval, Le, MinLen
from hypothesis import given
from hypothesis import strategies as st

from r1.config.check.models import ConfigModel, NodeType, check_node, check_value, describe
from r1.config.check.schema import resolve, signature
from r1.config.check.types import describe_expected_object, expects_object, is_compatible
from r1.core.errors import UserError, format_value, one_line, suggest, suggest_moved_key
from r1.data.base import Data, Verifier
from r1.reward.base import RewardFunction
from r1.rollout.base import NEUTRAL, Engine
from r1.rollout.transformers import Transformers
from r1.stage.advantage.base import Advantage


class Shared(TypedDict):
    lr: Annotated[float, Gt(0)]
    schedule: Literal["constant", "linear"]


class Thing(Protocol):
    def make(self, size: int) -> str: ...


class Maker:
    """Fits ``Thing``."""

    def __init__(self, model: str, seed: int, *, size: Annotated[int, Ge(1)], **shared: Unpack[Shared]) -> None: ...

    def make(self, size: int) -> str:
        return "x" * size


def free(rows: list[str], *, limit: int = 3, **columns: Any) -> list[float]:
    return []


def unannotated(a, *, b, **rest):  # type: ignore[no-untyped-def]
    return a


def as_data(*, path: str) -> Data:
    raise NotImplementedError


def is_right(answer: str, row: dict[str, Any]) -> bool:
    return answer == row["answer"]


# ---- signatures ----


def test_check_node_with_a_runtime_argument_behind_the_star_says_where_it_goes() -> None:
    for required in (True, False):
        kind = NodeType(Any, runtime_args=["limit" if not required else "b"])
        node = {"_target_": f"{__name__}.{'unannotated' if required else 'free'}", "_partial_": True}
        (error,) = check_node(node, "reward.terms.x", kind=kind, extensions=[__name__])
        assert "is an argument that r1 passes, no option" in error.message
        assert (error.key, error.hint) == ("reward.terms.x._target_", "put it before the `*` of its signature")


def test_signature_separates_runtime_objects_from_knobs() -> None:
    parameters = signature(Maker)
    assert parameters.runtime == {"model": str, "seed": int}
    assert parameters.knobs == {
        "size": Annotated[int, Ge(1)],
        "lr": Annotated[float, Gt(0)],
        "schedule": Literal["constant", "linear"],
    }
    assert parameters.required == {"size", "lr", "schedule"}


def test_signature_of_defaults_and_plain_kwargs() -> None:
    parameters = signature(free)
    assert (list(parameters.runtime), parameters.knobs, parameters.required) == (["rows"], {"limit": int}, set())


def test_signature_without_annotations_accepts_any_value() -> None:
    parameters = signature(unannotated)
    assert (parameters.runtime, parameters.knobs, parameters.required) == ({"a": Any}, {"b": Any}, {"b"})


# ---- types in words ----


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "whole number"),
        (float, "finite number"),
        (bool, "true or false"),
        (str | None, "text or null"),
        (Annotated[int, Ge(2)], "whole number >= 2"),
        (Annotated[float, Gt(0)] | None, "finite number > 0 or null"),
        (Annotated[float, Le(0)], "finite number <= 0"),
        (Annotated[float, Interval(ge=0, lt=1)], "finite number >= 0 and < 1"),
        (Annotated[str, MinLen(1)], "text (not empty)"),
        (Literal["en", "zh"], "one of: en, zh"),
        (list[int], "a list, each item whole number"),
        (dict[str, Any], "a mapping"),
        (Engine, "an option of this group"),
    ],
)
def test_describe_type(hint: Any, words: str) -> None:
    assert describe(hint) == words


# ---- values ----


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, float),
        (0.5, Annotated[float, Interval(ge=0, lt=1)]),
        (None, Annotated[int, Ge(1)] | None),
        ("en", Literal["en", "zh"]),
        ([1, 8], list[int]),
        ([], list[str]),
        ({"a": {"b": 1}}, dict[str, Any]),
        (object(), Any),
        (None, Engine | None),
    ],
)
def test_check_value_accepts_valid_value(value: object, hint: Any) -> None:
    assert check_value(value, hint, "a.b") == []


@pytest.mark.parametrize(
    ("value", "hint", "advice"),
    [
        ("1.5", float, "a.b=1.5"),
        ("01", int, "a.b=1"),
        (8.0, int, "a.b=8"),
        (8.5, int, ""),
        (True, int, ""),
        (True, float, ""),
        (1, bool, ""),
        (5, str, """quote it twice: a.b="'5'" """),
        ("ens", Literal["en", "zh"], "did you mean `en`?"),
        (8, list[int], "a.b=[8]"),
        ("[1,8]", list[int], "a.b=[1,8]"),
        ([1.5], list[int], ""),
        (float("nan"), float, ""),
        (float("inf"), Annotated[float, Ge(0)], ""),
        ("chat", Engine, "choose an option: a/b=chat"),
        (None, Engine, "choose an option: a/b=NAME"),
        (5, Engine | None, "choose an option: a/b=NAME"),
    ],
)
def test_check_value_rejects_invalid_value_with_hint(value: object, hint: Any, advice: str) -> None:
    (error,) = check_value(value, hint, "a.b")
    assert error.key == "a.b"
    assert error.expected == describe(hint)
    assert advice in error.hint
    assert bool(error.hint) == bool(advice)


@given(st.one_of(st.booleans(), st.text(), st.floats(), st.none(), st.lists(st.integers())))
def test_check_value_int_rejects_other_types(value: object) -> None:
    assert len(check_value(value, int, "a")) == 1


@given(st.integers(min_value=3))
def test_check_value_enforces_range(value: int) -> None:
    assert check_value(value, Annotated[int, Ge(3)], "a") == []
    assert len(check_value(2 - value, Annotated[int, Ge(3)], "a")) == 1


def errors_in(value: object, hint: Any, key: str) -> list[UserError]:
    """The errors of one value in a config."""
    model = ConfigModel()
    return model.validate(model.mapping({key: value}, "", {key: hint}), {key: value})


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"x": {"_target_": "os.system"}}, "a.x._target_"),
        ([{"_target_": "os.system"}], "a[0]._target_"),
        ({"_convert_": "all"}, "a._convert_"),
        ({"x": ["${b}"]}, "a.x[0]"),
    ],
)
def test_node_inside_plain_value_is_rejected(value: object, key: str) -> None:
    for hint in (Any, dict[str, Any], list[Any]):
        assert [error.key for error in errors_in(value, hint, "a")] == [key]


def test_missing_mandatory_value_is_reported() -> None:
    (error,) = errors_in("???", str, "data.path")
    assert (error.message, error.hint) == ("`data.path` has no value yet", "set it: data.path=...")


# ---- the allow-list ----


def test_resolve_allows_own_objects() -> None:
    assert resolve("r1.rollout.transformers.Transformers", "rollout") is Transformers


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "builtins.open",
        "builtins.eval",
        "pathlib.Path.write_text",
        "r1",
        "r1.run",
        "r1.model.loading.Path",
        "r1.config.check.schema.importlib.import_module",
        "r1.core.errors.difflib.get_close_matches",
        "r1.nothing",
        "r1.model.loading.Nothing",
        "r1..model",
        "r1x.model",
        "",
        5,
        None,
    ],
)
def test_resolve_rejects_everything_else(path: object) -> None:
    with pytest.raises(UserError) as error:
        resolve(path, "rollout")
    assert error.value.key == "rollout._target_"


def test_extension_allows_its_own_package_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_pkg.py").write_text("from os import system\nfrom json import dumps\ndef mine(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert resolve("my_pkg.mine", "x", ["my_pkg"]).__name__ == "mine"
    assert resolve("my_pkg.dumps", "x", ["my_pkg", "json"]).__name__ == "dumps"
    for path, extensions in [("my_pkg.mine", []), ("my_pkg.system", ["my_pkg"]), ("my_pkgs.x", ["my_pkg"])]:
        with pytest.raises(UserError, match="may not build"):
            resolve(path, "x", extensions)


# ---- which target fits which type ----


@pytest.mark.parametrize(
    ("target", "hint", "partial", "expected"),
    [
        (Maker, Maker, False, True),
        (Maker, Thing, False, True),
        (Maker, Maker | None, False, True),
        (Maker, Thing, True, False),
        (Maker, Data, False, False),
        (Maker, Engine, False, False),
        (Transformers, Engine, False, True),
        (as_data, Data, False, True),
        (as_data, Maker, False, False),
        (is_right, Verifier, True, True),
        (is_right, Verifier, False, False),
        (is_right, Advantage, True, False),
        (is_right, RewardFunction, True, False),
        (Maker, Verifier, True, False),
        (Maker, dict[str, Any] | None, False, False),
        (as_data, Any, False, True),
    ],
)
def test_is_compatible_with_own_code(target: Callable[..., Any], hint: Any, partial: bool, expected: bool) -> None:
    assert is_compatible(target, hint, partial, is_own=True) is expected


def test_is_compatible_with_unannotated_user_code() -> None:
    assert is_compatible(unannotated, Data, False, is_own=False)
    assert is_compatible(free, RewardFunction, True, is_own=False)
    assert not is_compatible(unannotated, Data, False, is_own=True)
    assert not is_compatible(free, RewardFunction, False, is_own=False)


def test_describe_expected_object() -> None:
    assert [expects_object(hint) for hint in (Engine, Maker | None, Verifier, int, dict[str, Any], str | None)] == [
        *[True] * 3,
        *[False] * 3,
    ]
    assert describe_expected_object(Maker | None) == "an object of class Maker"
    assert describe_expected_object(Thing) == "an object with the methods of Thing: make"
    assert describe_expected_object(Verifier) == "a function, with _partial_: true, that returns bool"
    assert describe_expected_object(int) == "a plain value; no object is built here"


# ---- nodes ----


def node(**changes: Any) -> dict[str, Any]:
    keys = {**NEUTRAL, "max_completion_length": 8, "batch_size": 4, "async_steps": 0}
    return {"_target_": "r1.rollout.transformers.Transformers"} | keys | changes


def test_check_node_accepts_valid_node() -> None:
    assert check_node(node(), "rollout", kind=NodeType(Engine)) == []


def test_check_node_reports_all_errors() -> None:
    wrong = node(temperature=-1.0, batch_siz=4, _args_=[1])
    del wrong["batch_size"]
    errors = {error.key: error for error in check_node(wrong, "rollout", kind=NodeType(Engine))}
    assert set(errors) == {"rollout.temperature", "rollout.batch_siz", "rollout._args_", "rollout.batch_size"}
    assert errors["rollout.batch_siz"].hint == "did you mean `rollout.batch_size`?"
    assert errors["rollout.batch_size"].message == "`rollout.batch_size` is missing"


def test_check_node_with_extra_key_of_its_holder() -> None:
    weighted = NodeType(Any, extra={"weight": float | None})
    assert [p.key for p in check_node(node(weight=1.0), "x")] == ["x.weight"]
    assert check_node(node(weight=1.0), "x", kind=weighted) == []
    assert [p.key for p in check_node(node(), "x", kind=weighted)] == ["x.weight"]


# ---- the voice of an error ----


def test_user_error_fits_on_one_screen() -> None:
    error = UserError("a\nb\x1b[2J", key="x", value="y" * 1000, expected=["b", "c"], hint="d")
    lines = str(error).splitlines()
    assert [line.split()[0] for line in lines] == ["a", "key", "value", "expected", "hint"]
    assert lines[0] == "a b [2J"
    assert len(lines[2]) < 220
    assert lines[3] == "  expected b, c"


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        (True, "a", "true"),
        (5, "a.num_rows", "5"),
        ("x", "model.tokenizer", "'x'"),
        ("x", "teacher.api_key_env", "'x'"),
        ("x", "logger.api_key", "<redacted>"),
        (12345, "logger.api_key", "<redacted>"),
        ("x", "logger.my_password", "<redacted>"),
    ],
)
def test_format_value_hides_secrets(value: object, key: str, text: str) -> None:
    assert format_value(value, key) == text


def test_format_value_hides_nested_secrets() -> None:
    for value in ({"api_key": "hunter2"}, "sk-hunter2hunter2hunter2", ["https://me:hunter2@host"]):
        assert "hunter2" not in format_value(value, "logger")


def test_suggest_finds_close_names_and_aliases() -> None:
    names = ["group_size", "lr", "kl_coef"]
    assert suggest("group_siz", names, "stage.") == "did you mean `stage.group_size`?"
    assert suggest("LR", names) == "did you mean `lr`?"
    assert suggest("num_generations", names) == "did you mean `group_size`?"
    assert suggest("zzz", names) == ""
    assert (
        suggest_moved_key("trainer.lr", {"stage": {"lr": 1, "loss": {"x": 2}}, "trainer": {}})
        == "did you mean `stage.lr`?"
    )
    assert suggest_moved_key("beta", {"stage": {"kl_coef": 1}}) == "did you mean `stage.kl_coef`?"
    assert suggest_moved_key("x", {"stage": {"lr": 1}}) == ""


@given(st.text())
def test_one_line_is_printable_for_any_text(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= 400
