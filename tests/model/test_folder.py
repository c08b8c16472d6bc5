"""Model folders with something missing, broken or of another model: each is named before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from r1.config.check.sources import check_model_paths
from r1.core.errors import MODEL, UserError
from r1.core.paths import ASSETS
from r1.core.types import Config
from r1.run import execute

Tensors = dict[str, torch.Tensor]
GATE = "model.layers.0.mlp.gate_proj.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the smaller shipped model."""
    shutil.copytree(ASSETS / "tiny_xs", tmp_path / "model")
    return tmp_path / "model"


def change_tensors(folder: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def change_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


def make_adapter(folder: Path, keep: bool) -> None:
    for file in [] if keep else folder.iterdir():
        file.unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base", "peft_type": "LORA"}')
    save_file({"a": torch.zeros(2)}, folder / "adapter_model.safetensors")


def make_gguf(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.Q4_1.gguf").write_bytes(b"GGUF")


def remove(folder: Path, *patterns: str) -> None:
    for file in [file for pattern in patterns for file in folder.glob(pattern)]:
        file.unlink()


def store_as_bin(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[GATE]
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def lose_a_shard(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + (name == GATE)}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def rename_all(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors[f"module.{name}"] = tensors.pop(name)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {  # how to break a folder, what the error says
    "lacks a tensor": (lambda f: change_tensors(f, lambda t: t.pop(GATE)), f"missing: {GATE}"),
    "lacks the embeddings": (
        lambda f: change_tensors(f, lambda t: t.pop("model.embed_tokens.weight")),
        "missing: lm_head.weight, model.embed_tokens.weight",
    ),
    "lacks a tensor, as .bin": (store_as_bin, f"missing: {GATE}"),
    "lacks a shard": (lose_a_shard, "model-00002-of-00002.safetensors"),
    "has other names": (lambda f: change_tensors(f, rename_all), "missing: .* and 3"),
    "has another shape": (
        lambda f: change_tensors(f, lambda t: t.update({GATE: t[GATE][:-2]})),
        rf"of another shape: {GATE} \(190, 64\)",
    ),
    "is wider": (lambda f: change_config(f, hidden_size=128), r"of another shape: .*\(610, 64\)"),
    "has more layers": (lambda f: change_config(f, num_hidden_layers=9), "missing: model.layers.4"),
    "has fewer layers": (lambda f: change_config(f, num_hidden_layers=1), "config.json lacks: model.layers.1"),
    "is not tied": (lambda f: change_config(f, tie_word_embeddings=False), "missing: lm_head.weight"),
    "is another architecture": (lambda f: change_config(f, model_type="bert"), "missing: bert"),
    "is truncated": (lambda f: (f / "model.safetensors").write_bytes(b"\x10\0\0"), "cannot be loaded"),
    "is a Git LFS pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"),
        "cannot be loaded",
    ),
    "has half a config": (lambda f: (f / "config.json").write_text('{"model_type": "lla'), "config.json is not valid"),
    "has an empty config": (lambda f: (f / "config.json").write_text(""), "config.json is not valid JSON"),
    "has a list as config": (lambda f: (f / "config.json").write_text("[1]"), "config.json is not a JSON object"),
    "has no model_type": (lambda f: change_config(f, model_type=None), "no architecture `None`"),
    "has an unknown model_type": (lambda f: change_config(f, model_type="nonesuch"), "no architecture `nonesuch`"),
    "needs its own code": (
        lambda f: change_config(f, model_type="mine", auto_map={"AutoModelForCausalLM": "modeling.Mine"}),
        "runs no code",
    ),
    "has text for a number": (lambda f: change_config(f, hidden_size="wide"), "hidden_size"),
    "has an unknown activation": (lambda f: change_config(f, hidden_act="zzz"), "zzz"),
    "has broken generation config": (
        lambda f: (f / "generation_config.json").write_text("{"),
        "generation_config.json",
    ),
    "has no tokenizer": (lambda f: remove(f, "tokenizer*"), "no tokenizer"),
    "has no vocabulary": (lambda f: remove(f, "tokenizer.json"), "no tokenizer"),
    "has half a tokenizer": (
        lambda f: (f / "tokenizer.json").write_text('{"version": '),
        "tokenizer.json is not valid",
    ),
    "is only a GGUF": (make_gguf, "it holds model.Q4_1.gguf"),
    "is only an adapter": (lambda f: make_adapter(f, keep=False), "an adapter of some/base"),
    "holds an adapter, too": (lambda f: make_adapter(f, keep=True), "an adapter of some/base"),
    "is empty": (lambda f: remove(f, "*"), "it holds nothing"),
}


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("key", ["model.path", "teacher.path"])
def test_broken_folder_is_named_before_anything_is_loaded(
    config: Callable[..., Config], model: Path, damage: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it, message = BROKEN[damage]
    break_it(model)
    knobs = ["stage=distill", "teacher=transformers"] if key == "teacher.path" else []
    cfg = config(*knobs, f"{key}={model}")
    with pytest.raises(UserError, match=message) as caught:
        check_model_paths(cfg)
    assert (caught.value.code, caught.value.key, caught.value.value) == (MODEL, key, str(model))
    assert len(str(caught.value).splitlines()) <= 5
    assert capsys.readouterr() == ("", ""), "the error alone is on the screen"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_at_loading(
    small: Callable[..., Config], model: Path, folder: Path, value: float
) -> None:
    change_tensors(model, lambda tensors: tensors[GATE].view(-1)[7:8].fill_(value))
    path = [f"model.path={model}", "~model.config", "+model.config=null", "model.tokenizer=null"]
    with pytest.raises(UserError, match=f"NaN or infinity in {GATE}") as caught:
        execute(small("stage=eval", *path, f"output_dir={folder}"), [])
    assert caught.value.code == MODEL


def test_folder_without_tokenizer_is_accepted_with_another_tokenizer(
    config: Callable[..., Config], model: Path
) -> None:
    remove(model, "tokenizer*")
    check_model_paths(config(f"model.path={model}", "model.tokenizer=r1:tiny"))


def test_file_instead_of_a_folder_raises(config: Callable[..., Config], model: Path) -> None:
    with pytest.raises(UserError, match="this is a file") as caught:
        check_model_paths(config(f"model.path={model / 'model.safetensors'}"))
    assert caught.value.code == MODEL
