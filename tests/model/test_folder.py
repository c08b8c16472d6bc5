"""Model folders with something missing, broken or of another model: each is named before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from r1.config.check.sources import check_model_paths
from r1.core.errors import MODEL, UserError
from r1.core.paths import ASSETS
from r1.core.types import Config
from r1.model import loading
from r1.model.loading import Model
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
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "./some/base", "peft_type": "LORA"}')
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


def shard(folder: Path) -> list[Path]:
    """Store the weights in three files, with an index."""
    tensors = load_file(folder / "model.safetensors")
    files = {name: f"model-0000{1 + i % 3}-of-00003.safetensors" for i, name in enumerate(tensors)}
    for file in {*files.values()}:
        save_file({name: t for name, t in tensors.items() if files[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (folder / "model.safetensors").unlink()
    return sorted(folder.glob("model-*.safetensors"))


def break_a_shard(folder: Path) -> None:
    second = shard(folder)[1]
    second.write_bytes(second.read_bytes()[:-9])


def change_index(folder: Path, weight_map: Any) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def link_to(folder: Path, name: str, target: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def make_fifo(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def change_generation(folder: Path, **fields: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps(fields))


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
    "has no layers": (lambda f: change_config(f, num_hidden_layers=0), "config.json lacks: model.layers.0"),
    "has fewer than no layers": (lambda f: change_config(f, num_hidden_layers=-1), "config.json lacks: model.layers.0"),
    "has a bias that is not used": (
        lambda f: change_tensors(f, lambda t: t.update({GATE.replace("weight", "bias"): torch.ones(192)})),
        "config.json lacks: model.layers.0.mlp.gate_proj.bias",
    ),
    "has a norm that is not used": (
        lambda f: change_tensors(f, lambda t: t.update({"model.layers.1.self_attn.q_norm.weight": torch.ones(16)})),
        "config.json lacks: model.layers.1.self_attn.q_norm.weight",
    ),
    "has adapters that are not merged": (
        lambda f: change_tensors(f, lambda t: t.update({GATE.replace("weight", "lora_A.weight"): torch.ones(2, 64)})),
        "config.json lacks: .*lora_A",
    ),
    "has a whole number as weight": (
        lambda f: change_tensors(f, lambda t: t.update({GATE: t[GATE].to(torch.int8)})),
        "not floating-point",
    ),
    "is truncated": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x10\0\0"),
        "model.safetensors is not a complete",
    ),
    "is zero bytes": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is not a complete"),
    "is a link in a circle": (
        lambda f: link_to(f, "model.safetensors", "model.safetensors"),
        "model.safetensors is not a",
    ),
    "is a link to nothing": (lambda f: link_to(f, "config.json", "../blobs/1234"), "config.json is not a file"),
    "is a pipe": (lambda f: make_fifo(f, "config.json"), "config.json is not a file"),
    "has half a shard": (break_a_shard, "model-00002-of-.* is not a complete safetensors file"),
    "has an index without map": (lambda f: change_index(f, []), "model.safetensors.index.json has no weight_map"),
    "has an index of another folder": (
        lambda f: change_index(f, {GATE: "../elsewhere.safetensors"}),
        "index.json names files that are not there",
    ),
    "has weights under another name": (
        lambda f: (f / "model.safetensors").rename(f / "weights.safetensors"),
        "it holds .*weights.safetensors",
    ),
    "is a Git LFS pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"),
        "model.safetensors is not a complete",
    ),
    "has half a config": (lambda f: (f / "config.json").write_text('{"model_type": "lla'), "config.json is not valid"),
    "has an empty config": (lambda f: (f / "config.json").write_text(""), "config.json is not valid JSON"),
    "has a list as config": (lambda f: (f / "config.json").write_text("[1]"), "config.json is not a JSON object"),
    "has no model_type": (lambda f: change_config(f, model_type=None), "no architecture `None`"),
    "has a list of model_types": (lambda f: change_config(f, model_type=["llama"]), "no architecture"),
    "is nested without end": (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json is not valid"),
    "ends at a word": (lambda f: change_generation(f, eos_token_id="</s>"), "eos_token_id of generation_config"),
    "ends at half a token": (
        lambda f: change_generation(f, eos_token_id=[1, 2.5]),
        "eos_token_id of generation_config",
    ),
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
    "is only an adapter": (
        lambda f: make_adapter(f, keep=False),
        "the adapter's base, ./some/base: there is",
    ),
    "holds an adapter, too": (
        lambda f: make_adapter(f, keep=True),
        "the adapter's base, ./some/base: there is",
    ),
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


def lose_index(folder: Path) -> None:
    """The index of shards that are not there any more, beside the merged file."""
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')


HARMLESS: dict[str, Callable[[Path], Any]] = {
    "shards": shard,
    "an index that is not read": lose_index,
    "a link to nothing that is not read": lambda f: (f / "consolidated.safetensors").symlink_to("nowhere"),
    "a value head": lambda f: change_tensors(f, lambda t: t.update({"v_head.weight": torch.ones(1, 64)})),
    "rotary frequencies": lambda f: change_tensors(
        f, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    ),
    "a mask": lambda f: change_tensors(f, lambda t: t.update({"model.layers.0.attn.masked_bias": torch.tensor(-1e9)})),
    "large weights": lambda f: change_tensors(f, lambda t: t["model.norm.weight"].fill_(3e38)),
}


@pytest.mark.parametrize("change", HARMLESS)
def test_unused_files_and_tensors_are_accepted(
    config: Callable[..., Config], model: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    HARMLESS[change](model)
    check_model_paths(config(f"model.path={model}"))
    Model.pretrained(str(model), "float32").load(0)
    assert capsys.readouterr().err.count("Error") == 0


@pytest.mark.parametrize("fields", [{"rms_norm_eps": float("nan")}, {"rope_parameters": {"rope_theta": 0.0}}])
def test_model_whose_log_probs_are_not_finite_ends_the_run(
    small: Callable[..., Config], model: Path, folder: Path, fields: Config
) -> None:
    change_config(model, **fields)
    path = [f"model.path={model}", "~model.config", "+model.config=null", "model.tokenizer=null"]
    with pytest.raises(UserError, match="log-probs are not finite") as caught:
        execute(small("stage=eval", *path, f"output_dir={folder}"), [])
    assert (caught.value.code, caught.value.key, caught.value.value) == (MODEL, "model.path", str(model))


def test_buffer_that_is_not_finite_is_named(
    make_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_model("llama")
    policy.model.register_buffer("scale", torch.tensor([1.0, torch.nan]))
    monkeypatch.setattr(loading, "load_fitting", lambda *_, **__: policy)
    with pytest.raises(UserError, match=r"NaN or infinity in model\.scale"):
        loading.load_pretrained(AutoModelForCausalLM, str(tmp_path))


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
