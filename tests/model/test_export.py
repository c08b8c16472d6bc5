"""The exported folder holds the trained model: loaded by transformers alone, it gives the same log-probs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loras import make_lora
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig, PreTrainedModel

from r1.core.errors import MODEL, UserError
from r1.core.runs import read_run
from r1.core.types import Config
from r1.model import export as export_module
from r1.model.export import export, export_classifier
from r1.model.loading import Model
from r1.model.lora import Lora
from r1.run import execute

Make = Callable[..., PreTrainedModel]


def tiny_tokenizer() -> Any:
    return Model.pretrained("r1:tiny", "float32").load_tokenizer()


def lora(targets: Any) -> Lora:
    return make_lora(target_modules=targets)


def move(model: Any, amount: float = 0.1) -> None:
    """As training would: every trainable weight by its own amount."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += (amount * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)


@torch.no_grad()
def logps(model: Any) -> Tensor:
    """(4, 63, V) log-probs of 64 tokens in 4 rows, other ones than those that the export is checked with."""
    ids = torch.randint(97, (4, 64), generator=torch.Generator().manual_seed(11))
    return model.eval()(input_ids=ids).logits.float().log_softmax(-1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gpt2", "gemma3_text", "gpt_neox"])
@pytest.mark.parametrize("adapters", [False, True])
def test_export_of_each_architecture_gives_the_policy_s_log_probs(
    make_model: Make, tmp_path: Path, architecture: str, adapters: bool
) -> None:
    policy: Any = make_model(architecture)
    policy = lora("all-linear").wrap(policy) if adapters else policy
    move(policy)
    expected = logps(policy)
    export(policy, tiny_tokenizer(), {1}, tmp_path / "model", keep_adapters=True)
    assert (logps(policy) - expected).abs().max() < 1e-6, "it can be trained on"
    assert (logps(AutoModelForCausalLM.from_pretrained(tmp_path / "model")) - expected).abs().max() < 1e-4


def test_small_updates_of_adapters_survive_the_merge_into_half_precision(make_model: Make, tmp_path: Path) -> None:
    """In bfloat16 an update below half a step, 0.2 % to 0.4 % of its weight, would be rounded away."""
    base: Any = AutoModelForCausalLM.from_config(make_model("llama").config, dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    policy = lora(["q_proj"]).wrap(base)
    move(policy, 1e-4)
    export(policy, tiny_tokenizer(), {1}, tmp_path / "model")
    merged = load_file(tmp_path / "model" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    change = (merged[name] - before[name].float()).abs()
    assert (change > 0).float().mean() > 0.99
    assert change.max() < 1e-3


def test_export_of_a_reward_model_gives_its_scores(make_model: Make, tmp_path: Path) -> None:
    config = make_model("llama").config
    config.num_labels, config.pad_token_id = 1, 0
    policy: Any = AutoModelForSequenceClassification.from_config(config).eval()
    export_classifier(policy, tiny_tokenizer(), tmp_path / "model")
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    ids = torch.arange(1, 21).view(4, 5)
    torch.testing.assert_close(reloaded(input_ids=ids).logits, policy(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("settings", "exported"),
    [
        (
            {"do_sample": False, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1},
            {"do_sample": False, "repetition_penalty": 1.1},
        ),
        ({"early_stopping": True, "length_penalty": 2.0, "max_length": 100}, {"max_length": 100}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, {"do_sample": True, "temperature": 0.6, "top_k": 20}),
        ({"num_beams": 4, "early_stopping": True}, {"num_beams": 4, "early_stopping": True}),
        ({"pad_token_id": 0, "eos_token_id": [1, 7, 9]}, {"pad_token_id": 0}),
    ],
)
def test_generation_settings_that_transformers_does_not_save_are_left_out(
    make_model: Make, tmp_path: Path, settings: Config, exported: Config
) -> None:
    """The hub has models whose generation_config.json is loaded, and refused by save_pretrained."""
    policy = make_model("llama")
    policy.generation_config = GenerationConfig(**settings)
    export(policy, tiny_tokenizer(), {1}, tmp_path / "model")
    written = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    del written["transformers_version"]
    assert written == exported | {"eos_token_id": [1]}


def damaged(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


DAMAGES: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "a weight is off": (lambda t: t["model.norm.weight"].mul_(1.01), "log-probs are off by 0"),
    "a weight is lost": (lambda t: t.pop("model.norm.weight"), "missing: model.norm.weight"),
    "a weight is not finite": (lambda t: t["model.norm.weight"].fill_(torch.nan), "NaN or infinity in model.norm"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_run_whose_export_is_not_the_trained_model_ends_with_the_reason(
    small: Callable[..., Config], folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    change, message = DAMAGES[damage]
    write = export_module._write

    def write_damaged(model: Any, tokenizer: Any, to: Path) -> None:
        write(model, tokenizer, to)
        damaged(to, change)

    monkeypatch.setattr(export_module, "_write", write_damaged)
    cfg = small("stage=sft", "trainer.max_steps=1", "keep_best=false", "checkpoint_every=1", f"output_dir={folder}")
    with pytest.raises(UserError, match=message) as caught:
        execute(cfg, [])
    assert caught.value.code == MODEL
    assert not (folder / "model").exists()
    assert caught.value.value == str(folder / "model.rejected")
    assert list((folder / "checkpoints").iterdir())


# ---- adapters on the embeddings ----


@pytest.mark.parametrize("targets", ["[lm_head]", "[embed_tokens]", "[q_proj,lm_head]", "'.*(q_proj|embed_tokens)'"])
def test_adapter_on_tied_embeddings_is_refused_before_the_start(
    small: Callable[..., Config], folder: Path, targets: str
) -> None:
    knobs = ["+model/lora=default", f"model.lora.target_modules={targets}", f"output_dir={folder}"]
    with pytest.raises(UserError, match="are one matrix") as caught:
        execute(small("stage=sft", *knobs), [])
    assert caught.value.key == "model.lora.target_modules"
    assert not folder.exists()


@pytest.mark.parametrize("targets", ["[nothing]", "[norm]", "'(['", "[]"])
def test_adapter_on_layers_that_do_not_exist_is_refused_before_the_start(
    small: Callable[..., Config], folder: Path, targets: str
) -> None:
    knobs = ["+model/lora=default", f"model.lora.target_modules={targets}", f"output_dir={folder}"]
    with pytest.raises(UserError, match="peft cannot adapt") as caught:
        execute(small("stage=sft", *knobs), [])
    assert caught.value.key == "model.lora.target_modules"
    assert not folder.exists()


@pytest.mark.parametrize("targets", ["[lm_head]", "[embed_tokens]", "[lm_head,embed_tokens,q_proj]"])
def test_adapter_on_separate_embeddings_is_exported_as_trained(
    small: Callable[..., Config], folder: Path, tmp_path: Path, targets: str
) -> None:
    knobs = ["+model/lora=default", f"model.lora.target_modules={targets}", "stage.lr=0.05", "stage.packing=false"]
    execute(
        small("stage=sft", "keep_best=false", "model.config.tie_word_embeddings=false", *knobs, f"output_dir={folder}"),
        [],
    )
    loaded = [f"model.path={folder}", "~model.config", "+model.config=null", "model.tokenizer=null"]
    execute(small("stage=eval", *loaded, f"output_dir={tmp_path / 'eval'}"), [])
    trained, evaluated = (read_run(str(path)).manifest["metrics"]["final"] for path in (folder, tmp_path / "eval"))
    assert trained == evaluated
