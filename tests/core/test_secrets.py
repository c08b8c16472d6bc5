"""No secret is written to a disk or a log."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.core import secrets
from r1.core.errors import UserError
from r1.core.paths import ROOT
from r1.core.secrets import REDACTED, redact, redact_values
from r1.core.types import Config
from r1.run import execute

CANARY = "canary" + "7Zq9"  # a part of every secret below; in two parts, since a record holds the diff of this file
ENV = f"{CANARY}-environment"


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values that other tests of this process have had redacted are forgotten: they may be ordinary words."""
    monkeypatch.setattr(secrets, "SEEN_SECRETS", set())
    monkeypatch.setattr(secrets, "NAMED_SECRETS", set())


def keyed(completion_ids: list[list[int]], *, api_key: str, url: str, fails: bool) -> list[float]:
    """A user's reward with secret arguments; it fails in training with all of them in its message."""
    if fails and len(completion_ids) == 16:
        raise RuntimeError(f"POST {url} with api_key={api_key} or {os.environ['PLANTED_API_KEY']}: 500")
    return [float(ids[0] % 2) for ids in completion_ids]


PLANTED = [
    f"+reward.terms.keyed={{_target_: {__name__}.keyed, weight: 1.0, fails: false}}",
    f"+reward.terms.keyed.api_key='a long {CANARY}-key'",
    f"+reward.terms.keyed.url='https://me:{CANARY}@host.org/v1'",
    f"extensions=[{__name__}]",
    "~reward.terms.low_ids",
    f"name={ENV}",
]


@pytest.fixture
def run(
    small: Callable[..., Config], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """``run("logger=csv")``: a run with secrets everywhere; the text of all it wrote."""
    monkeypatch.setenv("PLANTED_API_KEY", ENV)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(
        "r1.core.provenance.working_tree_diff", lambda: f"+url = 'https://me:{CANARY}@host.org'  # or {ENV}\n"
    )

    def everything(*overrides: str) -> str:
        typed = [*PLANTED, f"output_dir={folder}", "trainer.max_steps=2", "checkpoint_every=1", *overrides]
        monkeypatch.setattr("sys.argv", ["r1.run", "stage=grpo", *typed])
        try:
            execute(small("stage=grpo", *typed), typed)
        except UserError as error:
            print(error)
        out, err = capfd.readouterr()
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert len(files) > 6
        return "".join([out, err, *(file.read_bytes().decode("latin-1") for file in files)])

    return everything


@pytest.mark.parametrize("logger", ["csv", "tensorboard", "wandb"])
def test_run_writes_and_prints_no_secret(run: Callable[..., str], logger: str) -> None:
    text = run(f"logger={logger}")
    assert REDACTED in text
    assert CANARY not in text


def test_failed_run_writes_and_prints_no_secret(run: Callable[..., str], folder: Path) -> None:
    text = run("reward.terms.keyed.fails=true")
    assert '"status": "failed"' in text
    assert "500" in (folder / "manifest.json").read_text()
    assert CANARY not in text


LISTS = Path(__file__).parent / "secrets"
PLANTED_FILES = [
    f"tests/core/{name}"
    for name in ("test_secrets.py", "secrets/hits.txt", "secrets/harmless.txt", "test_canary.py", "test_http.py")
]
PREFIX_WORDS = ("none", "xx")  # marked in the list, but harmless


def lines(name: str) -> list[str]:
    text = (LISTS / name).read_text(encoding="utf-8")
    return [line.replace("\\n", "\n") for line in text.splitlines()[1:]]


@pytest.mark.parametrize("line", lines("hits.txt"))
def test_redact_hides_the_secrets_of_a_line(line: str) -> None:
    text = re.sub("[«»]", "", line)
    for secret in re.findall("«(.*?)»", line, re.DOTALL):
        if secret not in PREFIX_WORDS:
            written = redact(text) + str(redact({"error": [f"it failed: {text}"]}))
            assert secret not in written
            words = secret.split() if " " in secret else []
            assert not any(re.search(rf"\b{re.escape(word)}\b", written) for word in words if len(word) > 4)
    assert REDACTED in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("line", lines("harmless.txt"))
def test_redact_keeps_a_harmless_line(line: str) -> None:
    assert redact(line) == line
    assert redact(f"it says {line}") == f"it says {line}"


def test_redact_keeps_the_files_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of conf/, docs/, the sources and the tests; those of the tests that plant a secret aside."""
    monkeypatch.setattr(secrets, "_known_secrets", list)  # of the environment, which takes most of the time
    planted = re.compile(r"hunter2|[cC]anary|CANARY|my-secret|SECRET|sk-|hf_|u:p@host|api_key=it's all here|abc")
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    suffixes = (".py", ".yaml", ".md", ".json", ".jsonl", ".txt", ".sh", ".html", ".js")
    files = [ROOT / name for name in names if name.endswith(suffixes) and name not in PLANTED_FILES]
    lines = {
        line.strip(): file.relative_to(ROOT)
        for file in files
        if file.is_file() and file.stat().st_size < 500_000
        for line in file.read_text(encoding="utf-8", errors="ignore").splitlines()
        if not ("tests" in file.parts and planted.search(line))
    }
    assert len(files) > 400
    assert [f"{file}: {line}" for line, file in lines.items() if redact(line) != line] == []


@pytest.mark.parametrize(
    "unit",
    [
        *("api_key=", "a.", "://", ":", "a:", "http://a:", "@", "password: '", 'token="\\', "eyJ", "x=1&", ",a", " "),
        *("-----BEGIN PRIVATE KEY-----", "Bearer ", "sk-", "a-", "0f", "%3a%2f%2f", "--api-key ", "password: a;"),
        *(
            "Cookie: a",
            "secret='\\'",
            "a:b/",
            "?key=a",
            "[",
            "api_key=[",
            "token: ",
            "password: a ",
            "passwd ",
            "<secret>",
        ),
        *(
            "name: api_key value: x ",
            "('api-key', '",
            "curl -u ",
            "mysql ",
            "login -p ",
            "redis-cli ",
            "login(",
            "api_key=a ",
            "API key provided: ",
            "EAA",
        ),
    ],
)
def test_redact_takes_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * size)[:size]
        started = time.process_time()
        redact(text)
        return time.process_time() - started

    short = max(min(seconds(20_000) for _ in range(3)), 5e-3)
    assert min(seconds(80_000) for _ in range(3)) / short < 6


@pytest.mark.parametrize(
    "value",
    [
        {"api_key": "abc"},
        {"teacher": {"HF_TOKEN": "abc"}},
        {"x-api-key": "abc"},
        {"db_password": "abc"},
        [{"secret": "abc"}],
        "teacher.api_key=abc",
        "+teacher.api_key=a b abc",
        "teacher={url: x, api_key: abc}",
        'teacher={"token": "abc", url: x}',
        "GET /v1?api_key=abc&n=1 failed",
        "failed with token=abc, and gave up",
        "Authorization: Bearer abc",
        "https://me:abc@host/x",
        "https://me:p@abc@host/x",
        "https://abc@host/x",
    ],
)
def test_redact_hides_by_key(value: Any) -> None:
    assert "abc" not in str(redact(value))
    assert REDACTED in str(redact(value))


@pytest.mark.parametrize(
    "secret",
    ["sk-" + "a1" * 10, "hf_" + "x" * 20, "ghp_" + "y" * 30, "github_pat_" + "y" * 30, "AKIA" + "A" * 16, "0f" * 20],
)
def test_redact_hides_by_form(secret: str) -> None:
    for text in (secret, f"a {secret} b", f"key='{secret}'"):
        assert secret not in redact(text)
        assert secret not in redact_values(text)


@pytest.mark.parametrize(
    "value",
    [
        {"num_tokens": 5, "eos_token": "<|eos|>", "use_cls_token": True, "tokenizer": "r1:tiny", "api_key": None},
        {"api_key_env": "OPENAI_API_KEY"},
        "rollout.max_tokens=100",
        "use_token=true",
        "teacher.api_key=null",
        "stage.lr=1.0e-4",
        "data.path=s3://bucket/a@b.jsonl",
        "3+5+8=?",
        "mask-aaaaaaaaaaaaaaaaaaaaaaaaaa",
    ],
)
def test_redact_keeps_harmless_values(value: Any) -> None:
    assert redact(value) == value


def test_redact_values_ignores_keys() -> None:
    line = "+    token: str = tokens[0]  # api_key=None"
    assert redact_values(line) == line


@given(st.text(), st.text())
def test_redact_hides_secrets_of_the_environment(before: str, after: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_SERVICE_TOKEN", ENV)
        assert CANARY not in str(redact({"a": [f"{before}{ENV}{after}"]}))


def test_redact_hides_a_seen_secret_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1.core.secrets.SEEN_SECRETS", set())
    assert redact("two words of it") == "two words of it"
    redact({"teacher": {"api_key": "two words"}})
    assert redact("two words of it") == f"{REDACTED} of it"
    redact("other.api_key='more words'")
    assert redact(["says more words"]) == [f"says {REDACTED}"]
    redact({"token": "short"})
    assert redact("a short text") == "a short text"


@given(st.text())
def test_redact_is_idempotent(text: str) -> None:
    assert redact(redact(text)) == redact(text)
