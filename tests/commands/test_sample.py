"""python -m r1.sample: completions of a model with their rewards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from r1 import sample
from r1.config.build import rewards
from r1.core.errors import MODEL
from r1.core.types import Config
from r1.run import execute

KNOWN = "2+3+4=?"  # data=arithmetic can work it out


def needs_difficulty(completions: list[str], difficulty: list[str]) -> list[float]:
    """A reward that needs a column which a typed question does not have."""
    return [0.5] * len(completions)


@pytest.fixture(scope="module")
def run(small: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the default rewards, and one more."""
    folder = tmp_path_factory.mktemp("sample") / "run"
    terms = [
        "+reward.terms.accuracy={_target_: r1.reward.terms.accuracy.accuracy, weight: 1.0}",
        "+reward.terms.format={_target_: r1.reward.terms.format.format, weight: 0.2, graded: true}",
    ]
    execute(small("stage=sft", f"output_dir={folder}", "trainer.max_steps=1", "threads=1", *terms), [])
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``cli(run, "1+2=?")``: exit code, stdout and stderr of ``python -m r1.sample``."""

    def command(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["r1.sample", *map(str, args)])
        code = 0
        try:
            sample.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capfd.readouterr()

    return command


def test_sample_prints_reward_terms(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli(run, KNOWN, "-n", 3)
    assert code == 0
    heads = out.splitlines()[::2]
    assert len(heads) == 3
    for head in heads:
        total, *terms = head.split()
        named = dict(zip(terms[::2], map(float, terms[1::2]), strict=True))
        assert named.keys() == {"low_ids", "accuracy", "format"}
        assert float(total) == pytest.approx(named["low_ids"] + named["accuracy"] + 0.2 * named["format"], abs=0.02)


def test_sample_without_gold_answer_omits_accuracy(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli(run, "Why is the sky blue?", "-n", 2)
    assert code == 0
    assert out.count("low_ids") == out.count("format") == 2
    assert "accuracy" not in out
    assert cli(run, "Why is the sky blue?", "--answer", "air")[1].count("accuracy") == 4


def test_sample_model_folder(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    """The default config then: its rewards, and its longer completions."""
    code, out, _ = cli(run / "model", KNOWN, "-n", 1)
    assert code == 0
    assert {"accuracy", "format"} <= set(out.split())


def test_sample_seed_determines_completions(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    first, again, other = (cli(run, KNOWN, "-n", 2, "--seed", seed)[1] for seed in (0, 0, 1))
    assert first == again != other
    assert first.startswith(cli(run, KNOWN, "-n", 1)[1])


def test_sample_temperature_0_is_greedy(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    lines = cli(run, KNOWN, "--temperature", 0)[1].splitlines()
    assert len(lines) == 8
    assert len(set(lines)) == 2


def test_sample_takes_the_knobs_of_the_rollout(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    greedy = cli(run, KNOWN, "--temperature", 0)[1]
    assert cli(run, KNOWN, "--top-k", 1)[1] == cli(run, KNOWN, "--min-p", 1.0, "--top-p", 0.5)[1] == greedy
    assert cli(run, KNOWN, "--temperature", 0, "--stop", greedy.splitlines()[1].strip()[0])[1] != greedy


@pytest.mark.parametrize("temperature", ["-1", "nan"])
def test_sample_invalid_temperature_exits_2(
    run: Path, cli: Callable[..., tuple[int, str, str]], temperature: str
) -> None:
    code, _, err = cli(run, KNOWN, f"--temperature={temperature}")
    assert code == 2
    assert "rollout.temperature" in err


def test_sample_zero_samples_exits_2(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    assert cli(run, KNOWN, "-n", 0)[0] == 2


@pytest.mark.parametrize("model", ["r1:nothing", "./nothing-here"])
def test_sample_missing_model_exits_with_model_code(cli: Callable[..., tuple[int, str, str]], model: str) -> None:
    code, _, err = cli(model, KNOWN)
    assert code == MODEL
    assert "model.path" in err


def test_scorable_terms_keeps_terms_with_their_columns(small: Callable[..., Config]) -> None:
    mine = f"+reward.terms.needs_difficulty={{_target_: {__name__}.needs_difficulty, weight: 1.0}}"
    cfg = small("stage=sft", mine)
    cfg["extensions"].append(__name__)
    terms = rewards(cfg).terms
    assert sample.scorable_terms(terms, {"prompt": "a"}).keys() == {"low_ids"}
    assert sample.scorable_terms(terms, {"prompt": "a", "difficulty": "b"}).keys() == {"low_ids", "needs_difficulty"}


def test_eval_config_takes_the_chat_template_from_the_models_folder(run: Path, tmp_path: Path) -> None:
    """The file that the run was given may be gone."""
    config = (run / "config.yaml").read_text()
    assert "chat_template: null" in config
    (tmp_path / "config.yaml").write_text(config.replace("chat_template: null", "chat_template: /gone.jinja"))
    assert sample.eval_config(str(tmp_path))["data"]["template"]["chat_template"] is None


def test_config_of_a_model_is_composed_in_a_process_of_its_own() -> None:
    """Nothing that another test imported is there, such as the resolvers of conf/."""
    code = "from r1.sample import eval_config; print(eval_config('r1:tiny')['rollout']['max_completion_length'])"
    assert int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout) > 0
