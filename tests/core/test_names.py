"""Every command in, into and from a folder of any name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Commands

from r1.core.override_text import override_value, path_value
from r1.core.runs import read_run

pytestmark = pytest.mark.slow

TINY = [
    *("model=tiny_xs", "threads=1", "val.num_prompts=2", "val.num_samples=2", "val.ks=[1]", "data.num_train=64"),
    *("data.num_val=8", "rollout.max_completion_length=8", "trainer.accelerator=cpu"),
]
SFT = [*TINY, "stage=sft", "stage.examples_per_step=2", "stage.micro_batch_size=2"]
EVAL = [*TINY, "stage=eval"]
SWEEP = {
    "method": "grid",
    "metric": {"name": "val/pass@1", "goal": "maximize"},
    "parameters": {"seed": {"values": [1]}},
    "command": ["python", "-m", "r1.run", *EVAL, "${args_no_hyphens}"],
}
LONG = pytest.mark.long
NAMES = [
    pytest.param("- a,b=c{d}'e\"f$g(h)[i]Jü語#k~&l:m;n%o@p!q*r?s|t<u>v^w`x\n\\", id="hostile"),
    pytest.param("ü" * 100, id="200_bytes", marks=LONG),
    pytest.param("+~x=1, y=null", id="grammar", marks=LONG),
    pytest.param("' \" \\' \\\" \\\\", id="quotes", marks=LONG),
    pytest.param("a\rb\x1b[31mred\x07\u202e\u00a0\u200b. ", id="invisible", marks=LONG),
    pytest.param("%s %(x)s {0} !x <img src=x> $HOME [red]", id="markup", marks=LONG),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_works_with_a_folder_of_any_name(commands: Commands, tmp_path: Path, name: str) -> None:
    here = tmp_path / name
    (here / "conf" / "experiment").mkdir(parents=True)
    run, again = here / "runs" / name, here / "again" / name

    def done(module: str, *argv: str) -> str:
        ended = commands(module, *argv, cwd=here)
        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.stdout

    done("r1.run", *SFT, "trainer.max_steps=1", f"output_dir={path_value(run)}")
    done("r1.run", *SFT, "trainer.max_steps=2", f"output_dir={path_value(run)}", "resume=auto")
    assert [row["step"] for row in read_run(str(run)).metrics if "train/loss" in row] == [1, 2]

    grid = override_value(f"{here}/grid {name}/${{seed}}")
    done("r1.run", "-m", *EVAL, f"model.path={path_value(run / 'model')}", "seed=1,2", f"output_dir={grid}")
    for seed in (1, 2):
        assert read_run(f"{here}/grid {name}/{seed}").manifest["parents"][0]["path"] == str(run)

    steps = {"a": [*EVAL, f"model.path={path_value(run / 'model')}"]}
    experiment = "# @package _global_\nname: mine\nsteps: " + json.dumps(steps)
    (here / "conf" / "experiment" / "mine.yaml").write_text(experiment)
    folder = here / f"pipe {name}"
    done("r1.run", "--config-dir", str(here / "conf"), "experiment=mine", f"output_dir={path_value(folder)}")
    (step,) = json.loads((folder / "manifest.json").read_text())["steps"]
    assert step["status"] == "finished"

    sweep = here / f"s{name[-50:]}.yaml"
    sweep.write_text(json.dumps(SWEEP))
    done("r1.sweep", str(sweep), "--name", "mine")
    assert read_run(str(here / "outputs" / "sweeps" / "mine" / "runs" / "0000")).manifest["status"] == "finished"

    done("r1.report", str(run), str(folder), "--output", str(here / f"{name[:50]}.html"))
    assert (here / f"{name[:50]}.html").is_file()
    assert "all equal" in done("r1.reproduce", str(run), "--output-dir", str(again))
    assert "the same" in done("r1.compare", str(run), str(again))


def test_name_with_an_interpolation_is_one_screen(commands: Commands, tmp_path: Path) -> None:
    ended = commands("r1.run", *EVAL, f"output_dir={path_value(tmp_path / '${seed}')}", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("r1: text cannot hold an interpolation of its own\n  key      output_dir\n")
    assert list(tmp_path.iterdir()) == []
