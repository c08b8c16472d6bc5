"""vLLM itself, on a CPU, in an environment of its own: ``make vllm-env``, or R1_VLLM_ENV=FOLDER."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("R1_VLLM_ENV", ROOT / ".venv-vllm")) / "bin" / "python"
PORT = 8765
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"there is no environment with vLLM at {PYTHON}: make vllm-env"),
]
SHORT = ["trainer.max_steps=4", "val.every=4", "val.num_prompts=16", "trainer.accelerator=cpu", "threads=1"]
HERE = ["rollout=vllm", "rollout.cpu_kvcache_space=0.25"]
THERE = ["rollout=vllm_server", f"rollout.url=http://127.0.0.1:{PORT}"]
TWO = ["strategy=ddp", "trainer.devices=2"]
ENV = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}


def rows(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """What a run with vLLM's Python logs; of an option that is there twice, the last counts."""
    options = {option.partition("=")[0]: option for option in (*SHORT, *overrides)}
    words = [str(PYTHON), "-m", "r1.run", f"output_dir={folder}", *options.values()]
    done = subprocess.run(words, cwd=folder.parent, env=ENV, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return rows(tmp_path_factory.mktemp("here") / "run", *HERE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log = tmp_path_factory.mktemp("server") / "log"
    words = ["-m", "r1.serve", "r1:tiny", "--port", str(PORT), "--enforce-eager", "--dtype", "float32"]
    words += ["--kv-cache-memory-bytes", str(2**28)]
    with log.open("w") as out:
        process = subprocess.Popen([str(PYTHON), *words], env=ENV, stdout=out, stderr=out, start_new_session=True)
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()[-4000:]
            try:
                with urlopen(f"http://127.0.0.1:{PORT}/weight_info", timeout=1):
                    break
            except OSError:
                time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def gaps(found: list[dict[str, Any]]) -> list[float]:
    return [row["train/logprob_gap"] for row in found if "train/logprob_gap" in row]


def test_vllm_in_process_logprobs_match_and_training_improves(here: list[dict[str, Any]]) -> None:
    assert len(gaps(here)) == 4
    assert max(gaps(here)) < 1e-5  # nats per token, in float32
    assert here[-1]["val/pass@1"] > here[0]["val/pass@1"]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


def test_vllm_server_gives_the_same_metrics_as_in_process(
    here: list[dict[str, Any]], server: None, tmp_path: Path
) -> None:
    assert_same(rows(tmp_path / "run", *THERE), here)


DRAWS = """
import torch
from rolloutsupport import at
from r1.model.loading import Model
from r1.rollout.decoding.token_sampler import penalize, seen_tokens, truncate
from r1.rollout.vllm import VLLM

SIZES = {"max_completion_length": 6, "batch_size": 64, "dtype": None, "max_model_len": None}
MEMORY = {"gpu_memory_utilization": 0.3, "cpu_kvcache_space": 0.25, "enable_sleep_mode": False}
source = Model.pretrained("r1:tiny", "float32")
model, tokenizer = source.load(0).eval(), source.load_tokenizer()
engine = VLLM(**at(1.0), **SIZES, **MEMORY)
engine.update(model, 0)
prompt = tokenizer("User: 3+5+8=?\\nAssistant:", add_special_tokens=False).input_ids
filters = {"top_p": 0.9, "top_k": 12, "min_p": 0.05}
for knobs in ({"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.2}, {"repetition_penalty": 1.8}, filters, {"stop": ["lus"]}):
    sampling, gaps = at(1.3, **knobs), []
    (group,) = engine.with_sampling(sampling, tokenizer).generate([prompt], [list(range(40))], {1})
    for rollout in group:
        for t, token in enumerate(rollout.completion_ids):
            ids = prompt + rollout.completion_ids[:t]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[:, -1]
            logits = penalize(logits, seen_tokens([ids], logits), sampling["repetition_penalty"])
            gaps.append(truncate(logits / 1.3, sampling).log_softmax(-1)[0, token] - rollout.logps[t])
    print("gap", float(torch.stack(gaps).abs().max()), len({r.stop_text for r in group}))
engine.close()
"""


def test_vllm_draws_from_the_truncated_distribution() -> None:
    """A token outside of the kept set would have an infinite gap."""
    env = ENV | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])}
    done = subprocess.run([str(PYTHON), "-c", DRAWS], env=env, capture_output=True, text=True, timeout=300)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("gap")]
    assert len(lines) == 6, done.stderr[-4000:]
    assert max(float(gap) for _, gap, _ in lines) < 1e-4
    assert lines[-1][2] == "2"  # some completions ended at the stop text, some did not


@pytest.mark.parametrize("where", [HERE, THERE])
def test_two_ranks_give_the_same_metrics_as_one(
    here: list[dict[str, Any]], server: None, tmp_path: Path, where: list[str]
) -> None:
    assert_same(rows(tmp_path / "run", *where, *TWO), here)


def test_async_server_samples_with_weights_one_update_old(server: None, tmp_path: Path) -> None:
    ahead = [*THERE, "rollout.async_steps=1", "val.every=2"]
    found = rows(tmp_path / "run", *ahead)
    assert [row["train/weights_lag"] for row in found if "train/weights_lag" in row] == [0, 1, 1, 1]
    assert gaps(found)[0] < 1e-5 < min(gaps(found)[1:])
    assert_same(rows(tmp_path / "two", *ahead, *TWO), found)


def test_half_precision_mismatch_is_logged_and_bounded(tmp_path: Path) -> None:
    found = gaps(rows(tmp_path / "run", *HERE, "rollout.dtype=bfloat16", "stage.num_iterations=2"))
    assert all(1e-4 < gap < 0.05 for gap in found)


def test_lora_run_and_its_evaluation_agree(tmp_path: Path) -> None:
    found = rows(tmp_path / "lora", *HERE, "+model/lora=default")
    assert max(gaps(found)) < 1e-5
    (evaluated,) = rows(tmp_path / "eval", *HERE, "stage=eval", f"model.path={tmp_path / 'lora'}")
    assert evaluated["val/pass@1"] == pytest.approx(found[-1]["val/pass@1"], abs=0.02)
