"""Damaged files of runs and sweeps: every verb ends with one screen that names the file, or goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml

from r1 import compare, report, reproduce, sample, serve, sweep
from r1.core.command import run_command
from r1.core.errors import UserError
from r1.core.runs import read_run
from r1.experiment.launch import launch
from r1.experiment.pipeline import scheduler
from r1.experiment.pipeline.node import PipelineNode
from r1.experiment.sweep.file import read_sweep
from r1.experiment.sweep.storage import storage_url
from r1.experiment.sweep.study import Study
from r1.run import execute

pytestmark = pytest.mark.slow

Verb = Callable[[Path], None]
LIMIT_S = 60  # no verb waits for a file
SWEEP_FOLDER = Path("outputs", "sweeps", "tried")
PIPELINE = ["--config-dir", "conf", "experiment=piped", "output_dir=piped"]
RUN = ["stage=grpo", "stage.group_size=2", "trainer.max_steps=2", "checkpoint_every=1", "keep_best=false", "logger=csv"]


def options() -> list[str]:
    from conftest import DENSE, SMALL

    return [*(option for option in SMALL if not option.startswith("trainer.max_steps")), *DENSE, "threads=1", *RUN]


def config() -> dict[str, Any]:
    from forkserver import composed

    return dict(composed(*options()))


class StepHere:
    """Stands in for a step's process: the run, in this one."""

    wall_s, exit_code = 0.1, 0

    def __init__(self, node: PipelineNode) -> None:
        try:
            execute(node.config | {"output_dir": str(node.folder.absolute()), "resume": "auto"}, [])
        except UserError as error:
            self.exit_code, self.error = error.code, str(error)

    def poll(self) -> int:
        return self.exit_code

    def last_error_line(self) -> str:
        return self.error


@pytest.fixture(scope="module", autouse=True)
def steps_here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "start", lambda node, *_: StepHere(node))
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run``, ``other``, its copy, a sweep of two points, which are copies, too, and a pipeline of two steps."""
    folder = tmp_path_factory.mktemp("world")
    execute(config() | {"output_dir": str(folder / "run")}, [])
    shutil.copytree(folder / "run", folder / "other")
    command = ["${env}", "${interpreter}", "-m", "r1.run", *options(), "${args_no_hyphens}"]
    content = {"name": "tried", "method": "grid", "metric": {"name": "val/pass@1", "goal": "maximize"}}
    content |= {"parameters": {"seed": {"values": [0, 1]}}, "command": command}
    (folder / "tried.yaml").write_text(yaml.safe_dump(content))
    home = folder / SWEEP_FOLDER
    study = Study(read_sweep(str(folder / "tried.yaml")), home, storage_url(home, None), None, retry_failed=False)
    for _ in range(2):
        taken = study.take_point()
        assert taken
        shutil.copytree(folder / "run", taken[0].folder, dirs_exist_ok=True)
        study.finish_point(taken[0], 0.5)
        taken[1].close()
    (folder / "conf" / "experiment").mkdir(parents=True)
    kept = [
        option for option in options() if option.startswith(("data.", "val.num", "val.ks", "rollout.", "trainer.acc"))
    ]
    steps = {"learn": options(), "test": ["stage=eval", "model.path=${step:learn}", *kept]}
    piped = "# @package _global_\n" + yaml.safe_dump({"name": "piped", "steps": steps})
    (folder / "conf" / "experiment" / "piped.yaml").write_text(piped)
    with chdir(folder):
        assert launch(PIPELINE, execute) == 0
    return folder


@pytest.fixture
def copy(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world, which is the working directory."""
    shutil.copytree(world, tmp_path / "world")
    pipeline = tmp_path / "world" / "piped" / "manifest.json"  # it has the folders of its steps
    pipeline.write_text(pipeline.read_text().replace(str(world), str(tmp_path / "world")))
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


# ---- the verbs, in this process ----


def command(module: Any, *argv: str) -> Verb:
    def run(folder: Path) -> None:
        sys.argv = [module.__name__, *argv]
        module.main()

    return run


def reproduced(folder: Path) -> None:
    """``reproduce`` without training: its run is checked and built."""
    original = reproduce.execute
    reproduce.execute = lambda cfg, *args: execute(cfg | {"dry_run": True}, []) or folder / "other"
    try:
        command(reproduce, "run")(folder)
    finally:
        reproduce.execute = original


def resumed(folder: Path) -> None:
    run_command(lambda: execute(config() | {"output_dir": str(folder / "run"), "resume": "auto"}, []) and None)


def served(folder: Path) -> None:
    run_command(lambda: serve.server_command([str(folder / "run")]) and None)


def piped(folder: Path) -> None:
    run_command(lambda: launch(PIPELINE, execute))


VERBS: dict[str, Verb] = {
    "compare": command(compare, "run", "other"),
    "report": command(report, "run"),
    "reproduce": reproduced,
    "sample": command(sample, "run", "1+2=?", "-n", "1"),
    "serve": served,
    "resume": resumed,
    "sweep": command(sweep, "tried.yaml"),
    "sweep --report": command(sweep, "tried.yaml", "--report"),
    "pipeline": piped,
    "report of a pipeline": command(report, "piped"),
    "compare pipelines": command(compare, "piped", "other"),
    "sample of a pipeline": command(sample, "piped", "1+2=?", "-n", "1"),
    "reproduce a pipeline": command(reproduce, "piped"),
}
RUN_VERBS = ("compare", "report", "reproduce", "sample")
PIPELINE_VERBS = ("report of a pipeline", "compare pipelines", "pipeline")


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("the verb waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def screen_of(verb: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The one screen that a verb ends with; empty: it has done its work."""
    capfd.readouterr()
    code: Any = 0
    with time_limit():
        try:
            VERBS[verb](folder)
        except SystemExit as ended:
            code = ended.code
    err = capfd.readouterr().err
    screens = f"\n{err}".split("\nr1: ")[1:]
    assert "Traceback" not in err
    if (verb, code) == ("reproduce", 1):  # the values differ
        return ""
    assert len(screens) == (code != 0), err
    return screens[0] if screens else ""


# ---- the damage ----


def cut(file: Path, draw: random.Random) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def lose_a_line(file: Path, draw: random.Random) -> None:
    lines = file.read_bytes().split(b"\n")
    del lines[draw.randrange(len(lines))]
    file.write_bytes(b"\n".join(lines))


def fifo(file: Path, draw: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGE: dict[str, Callable[[Path, random.Random], Any]] = {
    "empty": lambda file, _: file.write_bytes(b""),
    "cut": cut,
    "zeros": lambda file, _: file.write_bytes(bytes(file.stat().st_size)),
    "not UTF-8": lambda file, _: file.write_bytes(b"\xff\xfe" + file.read_bytes()),
    "a list": lambda file, _: file.write_bytes(b"[1, 2]\n"),
    "an empty object": lambda file, _: file.write_bytes(b"{}\n"),
    "nested": lambda file, _: file.write_bytes(b"[" * 100_000 + b"\n"),
    "half a character": lambda file, _: file.write_bytes(b'{"step": 0, "completion": "\\udc00"}\n'),
    "missing": lambda file, _: file.unlink(),
    "a FIFO": fifo,
}
RECORD = ("manifest.json", "config.yaml", "metrics.jsonl", "samples.jsonl", "overrides.yaml", "timing.jsonl")
OF_SWEEP = ("tried.yaml", SWEEP_FOLDER / "sweep.yaml", SWEEP_FOLDER / "study.db")
OF_SWEEP += tuple(SWEEP_FOLDER / "runs" / "0000" / name for name in RECORD[:3])


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("verb", RUN_VERBS)
def test_damaged_record_is_one_screen_with_the_file_or_no_hindrance(
    copy: Path, capfd: pytest.CaptureFixture[str], verb: str, damage: str
) -> None:
    for name in ("config.yaml",) if verb == "sample" else RECORD:  # the only one that it reads
        file = copy / "run" / name
        DAMAGE[damage](file, random.Random(0))
        screen = screen_of(verb, copy, capfd)
        assert not screen or name in screen or "no manifest.json" in screen
        restore(file, copy / "other" / name)


RUNS_A_POINT = ("missing", "a FIFO")


@pytest.mark.parametrize(
    ("verb", "damage"),
    [
        *(("sweep --report", damage) for damage in DAMAGE),
        *(("sweep", damage) for damage in DAMAGE if damage not in RUNS_A_POINT),
        *(pytest.param("sweep", damage, marks=pytest.mark.long) for damage in RUNS_A_POINT),
    ],
)
def test_damaged_sweep_is_one_screen_with_the_file_or_no_hindrance(
    world: Path, copy: Path, capfd: pytest.CaptureFixture[str], verb: str, damage: str
) -> None:
    for name in OF_SWEEP:
        DAMAGE[damage](copy / name, random.Random(0))
        screen = screen_of(verb, copy, capfd)
        assert not screen or Path(name).name in screen, screen
        restore(copy / name, world / name)


def restore(file: Path, original: Path) -> None:
    if os.path.lexists(file):
        file.unlink()
    shutil.copyfile(original, file)


def of_pipeline(copy: Path) -> list[Path]:
    learn, test = (next((copy / "piped" / "steps" / name).iterdir()) for name in ("learn", "test"))
    names = [copy / "piped" / name for name in ("manifest.json", "config.yaml", "overrides.yaml")]
    return [
        *names,
        *(learn / name for name in ("manifest.json", "metrics.jsonl", "config.yaml")),
        test / "manifest.json",
    ]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("verb", PIPELINE_VERBS[:2])
def test_damaged_pipeline_is_one_screen_with_the_file_or_no_hindrance(
    copy: Path, capfd: pytest.CaptureFixture[str], verb: str, damage: str
) -> None:
    assert_damage_of_pipeline_ends_in_one_screen(copy, capfd, verb, damage, of_pipeline(copy))


@pytest.mark.parametrize(
    "damage", [name if name == "cut" else pytest.param(name, marks=pytest.mark.long) for name in DAMAGE]
)
def test_pipeline_with_a_damaged_file_is_one_screen_with_the_file_or_continues(
    copy: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    files = of_pipeline(copy) if damage != "cut" else [copy / "piped" / "manifest.json", of_pipeline(copy)[-1]]
    assert_damage_of_pipeline_ends_in_one_screen(copy, capfd, "pipeline", damage, files)


def assert_damage_of_pipeline_ends_in_one_screen(
    copy: Path, capfd: pytest.CaptureFixture[str], verb: str, damage: str, files: Sequence[Path]
) -> None:
    shutil.copytree(copy / "piped", copy / "kept")
    for file in files:
        DAMAGE[damage](file, random.Random(0))
        screen = screen_of(verb, copy, capfd)
        assert not screen or file.name in screen or "is not a record" in screen, screen
        shutil.rmtree(copy / "piped")
        shutil.copytree(copy / "kept", copy / "piped")


# ---- a key that is gone, or whose value is of another kind ----

OTHERS = (None, 3, "text", [1], {"a": "b"})
CHANGED = [("run/manifest.json", verb) for verb in ("compare", "report", "reproduce", "resume")]
CHANGED += [("piped/manifest.json", verb) for verb in PIPELINE_VERBS]
CHANGED += [("piped/steps/learn/*/manifest.json", verb) for verb in PIPELINE_VERBS]
CHANGED += [("run/config.yaml", verb) for verb in (*RUN_VERBS, "resume")]
CHANGED += [(f"{SWEEP_FOLDER}/runs/0000/{name}", "sweep --report") for name in ("manifest.json", "config.yaml")]
CHANGED += [("tried.yaml", verb) for verb in ("sweep", "sweep --report")]
QUICK = (CHANGED[0], CHANGED[1], ("piped/manifest.json", "report of a pipeline"))


def key_paths(node: Any, start: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys of all values; of a list only those of the first three."""
    items = node.items() if isinstance(node, dict) else enumerate(node[:3]) if isinstance(node, list) else ()
    for key, value in items:
        yield (*start, key)
        yield from key_paths(value, (*start, key))


def change_a_key(content: Any, draw: random.Random) -> None:
    *path, key = draw.choice(list(key_paths(content)))
    for part in path:
        content = content[part]
    if draw.random() < 0.3:
        del content[key]
    else:
        content[key] = draw.choice(OTHERS)


def assert_changed_keys_end_in_one_screen(
    world: Path, copy: Path, capfd: pytest.CaptureFixture[str], name: str, verb: str, count: int
) -> None:
    (file,) = copy.glob(name)
    text = file.read_text()
    for seed in range(count):
        content = yaml.safe_load(text)
        change_a_key(content, random.Random(f"{name} {seed}"))
        file.write_text(json.dumps(content) if file.suffix == ".json" else yaml.safe_dump(content))
        screen_of(verb, copy, capfd)
        if verb in ("resume", "pipeline"):
            part = name.partition("/")[0]
            shutil.rmtree(copy / part)
            shutil.copytree(world / part, copy / part)
        file.write_text(text)


@pytest.mark.parametrize(("name", "verb"), QUICK)
def test_record_with_a_changed_key_is_one_screen_at_most(
    world: Path, copy: Path, capfd: pytest.CaptureFixture[str], name: str, verb: str
) -> None:
    assert_changed_keys_end_in_one_screen(world, copy, capfd, name, verb, 12)


@pytest.mark.long
@pytest.mark.parametrize(("name", "verb"), CHANGED)
def test_record_with_many_changed_keys_is_one_screen_at_most(
    world: Path, copy: Path, capfd: pytest.CaptureFixture[str], name: str, verb: str
) -> None:
    assert_changed_keys_end_in_one_screen(world, copy, capfd, name, verb, 40)


@pytest.mark.parametrize(
    ("verb", "name", "key"),
    [
        ("compare", "manifest.json", "command"),
        ("report", "manifest.json", "command"),
        ("report", "config.yaml", "name"),
    ],
)
def test_record_with_half_a_character_is_one_screen_with_the_file(
    copy: Path, capfd: pytest.CaptureFixture[str], verb: str, name: str, key: str
) -> None:
    file = copy / "run" / name
    text = file.read_text()
    content = yaml.safe_load(text) | {key: "gr\udc00po"}
    file.write_text(json.dumps(content))  # JSON is YAML
    assert f"{name} is damaged" in screen_of(verb, copy, capfd)


@pytest.mark.parametrize("verb", ["sample of a pipeline", "reproduce a pipeline"])
def test_verb_on_a_pipeline_that_needs_a_run_names_the_steps(
    copy: Path, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    screen = screen_of(verb, copy, capfd)
    assert "this is the record of a pipeline" in screen
    assert "learn, test" in screen


def assert_flips_end_in_one_screen(
    world: Path, copy: Path, capfd: pytest.CaptureFixture[str], verb: str, count: int
) -> None:
    names = OF_SWEEP if verb.startswith("sweep") else tuple(Path("run", name) for name in RECORD[:4])
    for name in names:
        for seed in range(count):
            for change in (flip_a_bit, lose_a_line) if str(name).endswith(("l", "n")) else (flip_a_bit,):
                change(copy / name, random.Random(f"{name} {change.__name__} {seed}"))
                screen_of(verb, copy, capfd)
                restore(copy / name, world / name)


@pytest.mark.parametrize(("verb", "count"), [("compare", 3), ("report", 2), ("reproduce", 1), ("sweep --report", 1)])
def test_flipped_bit_or_lost_line_is_one_screen_at_most(
    world: Path, copy: Path, capfd: pytest.CaptureFixture[str], verb: str, count: int
) -> None:
    assert_flips_end_in_one_screen(world, copy, capfd, verb, count)


@pytest.mark.long
@pytest.mark.parametrize("verb", [verb for verb in VERBS if "pipeline" not in verb])
def test_many_flipped_bits_are_one_screen_at_most(
    world: Path, copy: Path, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    assert_flips_end_in_one_screen(world, copy, capfd, verb, 40)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trials SET state = 'COMPLTE' WHERE number = 0",
        "UPDATE trial_user_attributes SET key = 'recordx' WHERE key = 'record'",
        "UPDATE trial_user_attributes SET value_json = '[' WHERE key = 'record'",
    ],
)
def test_study_with_another_content_is_one_screen_that_names_it(
    copy: Path, capfd: pytest.CaptureFixture[str], statement: str
) -> None:
    with sqlite3.connect(copy / SWEEP_FOLDER / "study.db") as database:
        database.execute(statement)
    database.close()
    assert "study.db is damaged" in screen_of("sweep", copy, capfd)


def test_export_over_a_fifo_is_one_screen_that_names_it(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fifo(copy / "run" / "model" / "config.json", random.Random(0))
    shutil.rmtree(copy / "run" / "checkpoints" / "step_000002")
    assert "config.json is damaged: it is not a regular file" in screen_of("resume", copy, capfd)


def test_stray_files_hinder_no_verb(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps = copy / "piped" / "steps"
    pipeline = (copy / "piped", steps, steps / "learn", next((steps / "learn").iterdir()))
    for folder in (copy / "run", copy / SWEEP_FOLDER, copy / SWEEP_FOLDER / "runs", *pipeline):
        (folder / "x.tmp.1").write_text("the user's")
        (folder / "step_999999").mkdir()
        os.mkfifo(folder / "pipe.jsonl")
    for verb in VERBS:
        if verb not in ("sample of a pipeline", "reproduce a pipeline"):  # which are refused
            assert not screen_of(verb, copy, capfd), verb


def test_reproduce_names_the_record_whose_config_cannot_be_run(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = copy / "run" / "config.yaml"
    file.write_text(file.read_text().replace("group_size: 2", "group_size: -2"))
    screen = screen_of("reproduce", copy, capfd)
    assert "the config of this record cannot be run" in screen
    assert str(file) in screen
    assert "stage.group_size" in screen
    assert read_run(str(copy / "run")).config["stage"]["group_size"] == -2, "and it can be read all the same"
