"""r1 as a library: compose, run and load, with Hydra's own compose, and the notebook of examples/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from hydra import compose, initialize_config_dir

import r1
from r1.core.errors import UserError

SFT = ["stage=sft", *SMALL, "val.every=1"]


def test_names_of_the_package_are_its_library() -> None:
    assert set(r1.__all__) <= set(dir(r1))
    assert all(getattr(r1, name) is not None for name in r1.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        r1.nothing  # noqa: B018


def test_composed_config_runs_and_its_record_loads(tmp_path: Path) -> None:
    cfg = r1.compose(*SFT, f"output_dir={tmp_path}/run")
    assert cfg.stage.lr > 0
    cfg.stage.lr = 0.5 * cfg.stage.lr
    run = r1.run(cfg)
    assert r1.run.__class__.__name__ == "CallableModule"  # the command's module is loaded now, and still the function
    assert run.dir == tmp_path / "run"
    assert run.config["stage"]["lr"] == cfg.stage.lr
    assert run.manifest["status"] == "finished"
    rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    assert list(run.metrics["step"]) == [row["step"] for row in rows]
    assert run.metrics["train/loss"].dropna().tolist() == [row["train/loss"] for row in rows if "train/loss" in row]
    again = r1.load(str(run.dir))
    assert again.metrics.equals(run.metrics)
    assert set(again.samples["split"]) == {"val"}
    assert {"prompt", "completion", "correct"} <= set(again.samples.columns)


def test_hydras_own_compose_gives_the_same_config(tmp_path: Path) -> None:
    from r1.library import as_config

    with initialize_config_dir(str(r1.CONF), version_base=None):
        cfg = compose("config", overrides=[*SFT, f"output_dir={tmp_path}/run"])
    assert as_config(cfg) == as_config(r1.compose(*SFT, f"output_dir={tmp_path}/run"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=gpro"], "did you mean"),
        (["--cfg=job"], "only overrides compose"),
        (["stage=sft,grpo"], "stage"),
    ],
)
def test_wrong_override_is_the_error_of_the_command(overrides: list[str], message: str) -> None:
    with pytest.raises(r1.UserError) as caught:
        r1.compose(*overrides)
    assert message in str(caught.value)


def test_config_that_cannot_run_is_an_error_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_prompts"):
        r1.run(r1.compose(*SFT, "val.num_prompts=-1", f"output_dir={tmp_path}/run"))
    with pytest.raises(UserError, match="a dry run has no record"):
        r1.run(r1.compose(*SFT, "dry_run=true"))
    with pytest.raises(UserError, match="runs one step"):
        r1.run(r1.compose("experiment=r1"))
    with pytest.raises(UserError, match="this is no config"):
        r1.run("stage=sft")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no manifest"):
        r1.load(tmp_path)
    assert not (tmp_path / "run").exists()


def test_import_of_the_package_is_light() -> None:
    code = "import sys, r1; r1.__version__; print(sorted({'torch', 'hydra', 'omegaconf', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_notebook_of_the_examples_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((r1.CONF.parent / "examples" / "library.ipynb").read_text())
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["run"].manifest["status"] == "finished"
    assert names["run"].metrics["step"].max() == 6
