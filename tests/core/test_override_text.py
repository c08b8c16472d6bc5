"""Overrides that r1 writes are read back by Hydra's own parser."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from r1.config.hydra_adapter import parse_override
from r1.core.override_text import override_value, path_value

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")) | st.text("\\'\"$ {}[],:=~#&%@ü\t(")
KEYS = st.from_regex(r"[a-z_]([a-z0-9_ =,:()\[\]{}\\.-]*[a-z])?", fullmatch=True).filter(
    lambda key: key not in ("null", "true", "false", "nan", "inf")
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_override_value_is_read_back_by_hydra(value: Any) -> None:
    override = parse_override(f"a.b={override_value(value)}")
    assert override.value() == value
    assert type(override.value()) is type(value)


@given(TEXTS)
@example(r"a\${x}")
@example("a b#c~d&e=f,g[h]i{j}k$l%m'n\"o")
@example("null")
def test_path_value_is_the_path_after_composition(path: str) -> None:
    value = parse_override(f"output_dir={path_value(path)}").value()
    assert OmegaConf.create({"a": value}).a == path


def test_override_value_leaves_plain_paths_readable() -> None:
    assert path_value("/tmp/run-1/steps/a.b") == "/tmp/run-1/steps/a.b"
    assert path_value("it's") == r"'it\'s'"
