"""The files that a finished run offers to others, and what is seen when they change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from r1.core import provenance
from r1.core.errors import STORAGE, UserError
from r1.core.outputs import check_parents, damaged_outputs, output_hashes


def test_outputs_of_a_finished_parent_stand_for_its_files(tmp_path: Path) -> None:
    parent, file = tmp_path / "run", tmp_path / "run" / "model" / "config.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    outputs = output_hashes(parent)
    assert outputs.keys() == {"model/config.json"}
    manifest = {"fingerprint": "x", "outputs": outputs}
    (parent / "manifest.json").write_text(json.dumps(manifest))
    cfg = {"model": {"path": str(parent)}}
    parents = provenance.find_parents([str(parent)])
    assert provenance.input_hashes(cfg, parents) == {}
    check_parents({"model.path": str(parent), "teacher.path": str(parent / "model"), "model.tokenizer": "r1:tiny"})
    file.write_text("[]")
    assert damaged_outputs(parent) == ["model/config.json"]
    for path in (parent, parent / "model"):
        with pytest.raises(UserError, match=r"model/config.json is damaged") as raised:
            check_parents({"teacher.path": str(path)})
        assert (raised.value.code, raised.value.key) == (STORAGE, "teacher.path")
    (parent / "manifest.json").write_text(json.dumps(manifest | {"outputs": {}}))  # of an earlier version
    assert provenance.input_hashes(cfg, parents).keys() == {"model.path/config.json"}
    assert provenance.input_hashes(cfg, parents, [str(parent)]) == {}
