"""Where a policy comes from and where it goes: every transformers folder in, a transformers folder out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loras import make_lora
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from r1.core.errors import MODEL, UserError
from r1.core.model_paths import resolve_model_path
from r1.core.paths import ASSETS
from r1.core.runs import read_run
from r1.core.types import Config
from r1.model.export import export
from r1.model.loading import Model
from r1.run import execute

PROBE = "User: 3+15=?\nAssistant:<think> 3 plus 15 is 18. 等等</think>\n<answer>18</answer><|eos|>"
LORA = ["+model/lora=default", "model.lora.r=2"]


def source(**knobs: Any) -> Model:
    made: dict[str, Any] = {
        "path": None,
        "base_path": None,
        "config": None,
        "tokenizer": None,
        "dtype": "float32",
        "precision": "32-true",
        "attn_implementation": "sdpa",
        "gradient_checkpointing": False,
        "lora": None,
        "recipe": None,
    }
    return Model(**(made | knobs))


@pytest.fixture
def scratch(config: Callable[..., Config]) -> Callable[..., Model]:
    """``scratch(...)``: random weights, with these fields of their config and these other knobs."""

    def build_model(fields: dict[str, Any] | None = None, **knobs: Any) -> Model:
        held = config("model=scratch")["model"]["config"] | {"hidden_size": 32, "num_hidden_layers": 1}
        return source(**({"config": held | (fields or {}), "tokenizer": "r1:tiny"} | knobs))

    return build_model


@pytest.fixture(scope="module")
def run(small: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a reward that gives signal; its model/ is what it made."""
    folder = tmp_path_factory.mktemp("model") / "run"
    execute(small("stage=grpo", f"output_dir={folder}", "threads=1"), [])
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


# ---- what a run exports ----


def test_an_exported_model_is_a_transformers_folder(run: Path) -> None:
    policy = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert policy.config.vocab_size == len(tokenizer)
    assert policy.get_input_embeddings().weight is policy.get_output_embeddings().weight
    stored = load_file(run / "model" / "model.safetensors")
    assert all(stored[name].equal(value) for name, value in policy.state_dict().items() if name in stored)
    assert tokenizer.eos_token_id in GenerationConfig.from_pretrained(run / "model").eos_token_id
    assert {path.suffix for path in (run / "model").iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_exported_tokenizer_splits_as_in_training(run: Path) -> None:
    ours = source(path="r1:tiny").load_tokenizer()
    assert AutoTokenizer.from_pretrained(run / "model")(PROBE).input_ids == ours(PROBE).input_ids
    assert AutoTokenizer.from_pretrained(run / "model").chat_template == ours.chat_template


@pytest.mark.parametrize("inside", ["", "model"])
def test_evaluating_the_export_gives_the_same_metrics_bitwise(
    run: Path, small: Callable[..., Config], folder: Path, inside: str
) -> None:
    loaded = [f"model.path={run / inside}", "~model.config", "+model.config=null", "model.tokenizer=null"]
    execute(small("stage=eval", *loaded, f"output_dir={folder}"), [])
    trained, evaluated = manifest(run), manifest(folder)
    assert evaluated["metrics"]["final"] == trained["metrics"]["final"]
    assert evaluated["metrics"]["start"] == evaluated["metrics"]["final"]
    assert evaluated["parents"] == [{"path": str(run), "fingerprint": trained["fingerprint"]}]
    assert evaluated["status"] == "finished"
    assert not (folder / "model").exists()


def test_training_changed_the_exported_weights(
    run: Path, small: Callable[..., Config], experiment: Callable[..., Any]
) -> None:
    stage = experiment("stage=grpo").stage
    stage.configure_model()
    stored = load_file(run / "model" / "model.safetensors")
    before = stage.policy.state_dict()
    assert all(not stored[name].equal(before[name]) for name in stored if stored[name].ndim > 1)


# ---- low-rank adapters ----


@pytest.mark.parametrize("knobs", [[], ["model.gradient_checkpointing=true"]])
def test_lora_export_loads_without_peft(
    small: Callable[..., Config], folder: Path, monkeypatch: pytest.MonkeyPatch, knobs: list[str]
) -> None:
    execute(small("stage=sft", *LORA, "stage.lr=0.01", f"output_dir={folder}", *knobs), [])
    stored = load_file(folder / "model" / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in stored)
    assert not (folder / "model" / "adapter_config.json").exists()
    losses = [row["train/loss"] for row in read_run(str(folder)).metrics if "train/loss" in row]
    assert losses[-1] < losses[0]
    monkeypatch.setitem(sys.modules, "peft", None)
    again = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert all(again.state_dict()[name].equal(value) for name, value in stored.items())


def test_gradient_checkpointing_changes_no_bit(small: Callable[..., Config], tmp_path: Path) -> None:
    for name, value in (("kept", "false"), ("made", "true")):
        knobs = [f"model.gradient_checkpointing={value}", "trainer.max_steps=2"]
        execute(small("stage=sft", f"output_dir={tmp_path / name}", *knobs), [])
    kept, made = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("kept", "made"))
    assert all(kept[name].equal(made[name]) for name in kept)


def test_lora_trains_adapters_only_and_merging_preserves_outputs(scratch: Callable[..., Model], tmp_path: Path) -> None:
    lora = make_lora(target_modules="all-linear")
    plain, wrapped = scratch().load(seed=0), scratch(lora=lora).load(seed=0)
    trained = {name for name, p in wrapped.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    ids = torch.arange(10)[None]
    torch.testing.assert_close(wrapped(input_ids=ids).logits, plain(input_ids=ids).logits)  # B starts at 0
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    moved = wrapped(input_ids=ids).logits.detach()
    assert not torch.allclose(moved, plain(input_ids=ids).logits, atol=1e-3)
    export(wrapped, scratch().load_tokenizer(), {1}, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(input_ids=ids).logits, moved)
    assert again.generation_config.eos_token_id == [1]


def test_lora_without_peft_raises(scratch: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    lora = make_lora(target_modules="all-linear")
    with pytest.raises(UserError, match=r"-e '\.\[peft\]"):
        scratch(lora=lora).load(seed=0)


# ---- where it comes from ----


def test_random_weights_depend_on_the_seed_only(scratch: Callable[..., Model]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = scratch().load(seed=3).state_dict()
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    again, other = scratch().load(seed=3).state_dict(), scratch().load(seed=4).state_dict()
    assert all(first[name].equal(again[name]) for name in first)
    assert any(not first[name].equal(other[name]) for name in first)


def test_lora_initialisation_depends_on_the_seed_only(scratch: Callable[..., Model]) -> None:
    lora = make_lora(target_modules="all-linear")
    found = []
    for global_seed, seed in ((1, 3), (2, 3), (2, 4)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        model = scratch(lora=lora).load(seed=seed)
        found.append({name: p for name, p in model.named_parameters() if "lora_A" in name})
        assert torch.get_rng_state().equal(before)
    first, again, other = found
    assert all(first[name].equal(again[name]) for name in first)
    assert not any(first[name].equal(other[name]) for name in first)
    loaded = [source(path="r1:tiny_xs", lora=lora).load(seed=seed).state_dict() for seed in (3, 3, 4)]
    (name,) = (n for n in loaded[0] if "layers.0.self_attn.q_proj.lora_A" in n)
    assert loaded[0][name].equal(loaded[1][name])
    assert not loaded[0][name].equal(loaded[2][name])


def test_model_options_reach_the_model(scratch: Callable[..., Model]) -> None:
    made = scratch(dtype="bfloat16", attn_implementation="eager", gradient_checkpointing=True).load(seed=0)
    assert made.dtype is torch.bfloat16
    assert made.config._attn_implementation == "eager"
    assert any(getattr(module, "gradient_checkpointing", False) for module in made.modules())
    assert made.training


def test_load_config_reads_no_weights(run: Path, tmp_path: Path) -> None:
    AutoConfig.from_pretrained(run / "model").save_pretrained(tmp_path)
    assert source(path=str(tmp_path)).load_config().hidden_size == 32


def test_tokenizer_without_padding_uses_eos(tmp_path: Path) -> None:
    tokenizer = source(path="r1:tiny").load_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert source(path=str(tmp_path)).load_tokenizer().pad_token_id == tokenizer.eos_token_id


def test_resolve_model_path_of_each_kind(run: Path, tmp_path: Path) -> None:
    assert resolve_model_path(str(run)) == str(run / "model")
    assert resolve_model_path(str(run / "model")) == str(run / "model")
    assert resolve_model_path("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"
    assert resolve_model_path(str(tmp_path)) == str(tmp_path)
    assert resolve_model_path("r1:tiny") == str(ASSETS / "tiny")


# ---- what is refused ----


@pytest.mark.parametrize("knobs", [{}, {"path": "r1:tiny", "config": {"model_type": "llama"}}])
def test_model_needs_exactly_one_of_path_and_config(knobs: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="exactly one of"):
        source(**knobs)


@pytest.mark.parametrize("model_type", ["qwen2"])
def test_model_type_that_changes_the_tokenizer_raises(scratch: Callable[..., Model], model_type: str) -> None:
    with pytest.raises(UserError, match="reloads this tokenizer differently") as caught:
        scratch({"model_type": model_type}).load_tokenizer()
    assert caught.value.key == "model.config.model_type"
    assert caught.value.value == model_type
    assert "llama" in caught.value.hint
    assert caught.value.code == MODEL


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gpt_neox"])
def test_model_type_that_preserves_the_tokenizer_loads(scratch: Callable[..., Model], model_type: str) -> None:
    assert scratch({"model_type": model_type}).load_tokenizer().vocab_size


def test_random_weights_without_tokenizer_raises(scratch: Callable[..., Model]) -> None:
    with pytest.raises(UserError, match="need a tokenizer"):
        scratch(tokenizer=None).load_tokenizer()


@pytest.mark.parametrize("fields", [{"model_type": "nothing"}, {"model_type": None}])
def test_unknown_model_type_raises(scratch: Callable[..., Model], fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="rejects this config"):
        scratch(fields).load_config()


def test_unloadable_model_raises(tmp_path: Path, run: Path) -> None:
    (tmp_path / "config.json").write_text((run / "model" / "config.json").read_text())
    whole = (run / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    for path in (str(tmp_path), str(tmp_path / "nothing")):
        with pytest.raises(UserError, match="cannot be loaded") as caught:
            source(path=path).load(seed=0)
        assert caught.value.code == MODEL
        assert caught.value.value == path
    with pytest.raises(UserError, match="unknown shipped model") as caught:
        source(path="r1:nothing").load(seed=0)
    assert "r1:tiny" in caught.value.expected


def test_attention_is_the_best_of_the_architecture_unless_it_is_set(scratch: Callable[..., Model]) -> None:
    """transformers has no fast attention for GPT-J."""
    gptj = {"model_type": "gptj", "n_embd": 32, "n_layer": 1, "n_head": 2, "rotary_dim": 8}
    made = source(config=gptj, tokenizer="r1:tiny", attn_implementation=None)
    assert made.load(seed=0).config._attn_implementation == "eager"
    assert scratch(attn_implementation=None).load(seed=0).config._attn_implementation == "sdpa"
    with pytest.raises(UserError, match="gptj models do not run with this attention") as caught:
        source(config=gptj, tokenizer="r1:tiny", attn_implementation="sdpa").check_layers()
    assert (caught.value.key, caught.value.value) == ("model.attn_implementation", "sdpa")


def test_evaluation_does_not_rewrite_the_weights_of_rwkv() -> None:
    """transformers halves weights of later layers in eval mode, and would export them so."""
    fields = {"hidden_size": 32, "num_hidden_layers": 4, "rescale_every": 2}
    source = Model.pretrained("r1:tiny", "float32")
    source.path, source.config_fields = None, {"model_type": "rwkv"} | fields
    model = source.load(seed=0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        model.eval()(input_ids=torch.tensor([[1, 2, 3]]))
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
