"""Adapters against peft: their scale, full copies of modules, their folder, and models made from such a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loras import make_lora
from peft import AutoPeftModelForCausalLM, IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from r1.config.check.rules import weights
from r1.config.check.sources import check_model_paths
from r1.core.errors import MODEL, UserError
from r1.core.model_paths import split_adapters
from r1.core.runs import read_run
from r1.core.types import Config
from r1.model.export import export
from r1.model.forward import Forward, padded_forward
from r1.model.loading import Model, load_pretrained
from r1.model.recipe import architecture_of
from r1.model.sequences import stack
from r1.rollout.decoding.decoder import fastest_decoder
from r1.rollout.serving.weight_sync import checkpoint_weights
from r1.run import execute
from r1.sample import eval_config
from r1.serve import server_command

Make = Callable[..., PreTrainedModel]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft alone
LORA = ["+model/lora=default", "model.lora.r=2"]
Q_PROJ = "model.layers.0.self_attn.q_proj"


def move(model: Any, amount: float = 0.1) -> None:
    """As training would: every trainable weight by its own amount."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += (amount * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """(4, 16, V)"""
    ids = torch.randint(97, (4, 16), generator=torch.Generator().manual_seed(11))
    return model.eval()(input_ids=ids).logits.float()  # type: ignore[no-any-return]


def tokenizer() -> Any:
    return Model.pretrained("r1:tiny", "float32").load_tokenizer()


def peft_adapter(folder: Path, base: Path, **options: Any) -> PeftModel:
    """An adapter on the model in ``base``, moved and saved by peft alone."""
    options = {"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj", "down_proj"]} | options
    wrapped: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
    move(wrapped)
    wrapped.save_pretrained(folder)
    return wrapped  # type: ignore[no-any-return]


@pytest.fixture
def base(make_model: Make, tmp_path: Path) -> Path:
    """A llama on the disk with its tokenizer."""
    make_model("llama").save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def edit_config(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


# ---- what is trained ----


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 6 / 4), (True, 6 / 2)])
def test_update_is_the_product_of_two_matrices_scaled_by_the_rank(
    make_model: Make, use_rslora: bool, scale: float
) -> None:
    wrapped: Any = make_lora(r=4, alpha=6.0, use_rslora=use_rslora).wrap(make_model("llama"))
    move(wrapped)
    layer = wrapped.get_base_model().get_submodule(Q_PROJ)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer.weight + scale * b @ a
    torch.testing.assert_close(checkpoint_weights(wrapped)[f"{Q_PROJ}.weight"], expected.detach())
    torch.testing.assert_close(wrapped.merge_and_unload().get_submodule(Q_PROJ).weight, expected)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("modules", [["lm_head"], ["embed_tokens", "lm_head"], ["norm"]])
def test_modules_to_save_are_trained_decoded_synced_and_exported(
    make_model: Make, tmp_path: Path, tie: bool, modules: list[str]
) -> None:
    lora = make_lora(modules_to_save=modules)
    with torch.device("meta"):
        lora.check(make_model("llama", tie_word_embeddings=tie))
    policy: Any = lora.wrap(make_model("llama", tie_word_embeddings=tie))
    trained = {name for name, p in policy.named_parameters() if p.requires_grad and "lora_" not in name}
    assert len(trained) == (5 if modules == ["norm"] else 1 if tie else len(modules))
    move(policy)
    expected = logits(policy)
    batch = stack([([3, 5, 7], [11, 2, 13]), ([6, 2, 9, 8], [4, 10])], 0)
    packed = Forward(packing=True, share_prompts=True)
    assert packed.can_pack(policy, batch)
    torch.testing.assert_close(
        packed(policy, batch, 1.0)[0][batch.mask], padded_forward(policy, batch, 1.0, False)[0], atol=1e-5, rtol=1e-5
    )
    assert fastest_decoder(policy) is not None
    synced: Any = AutoModelForCausalLM.from_config(make_model("llama", tie_word_embeddings=tie).config)
    synced.load_state_dict(checkpoint_weights(policy), strict=not tie)
    torch.testing.assert_close(logits(synced), expected, atol=1e-5, rtol=1e-5)
    export(policy, tokenizer(), {1}, tmp_path / "model")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(exported), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "modules", "message"),
    [("llama", ["nothing"], "no module `nothing`"), ("gpt2", ["wte"], "both or neither")],
)
def test_modules_to_save_that_cannot_be_trained_are_refused(
    make_model: Make, architecture: str, modules: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_lora(modules_to_save=modules).check(make_model(architecture, tie_word_embeddings=True))
    assert caught.value.key == "model.lora.modules_to_save"


def test_full_modules_in_half_precision_are_refused(config: Callable[..., Config]) -> None:
    cfg = config("stage=sft", *LORA, "model.dtype=bfloat16", "model.lora.modules_to_save=[lm_head]")
    with pytest.raises(UserError, match="in full do not learn in bfloat16") as caught:
        weights(cfg)
    assert caught.value.key == "model.lora.modules_to_save"


# ---- adapter/ of a run ----


@pytest.mark.parametrize("knobs", [[], ["model.lora.use_rslora=true", "model.lora.modules_to_save=[embed_tokens]"]])
def test_adapter_of_a_run_is_its_model_for_peft_and_for_r1(
    config: Callable[..., Config], tmp_path: Path, knobs: list[str]
) -> None:
    run, evaluation = tmp_path / "run", tmp_path / "eval"
    shared = ["model=tiny_xs", "data.num_train=64", "data.num_val=8", "val.num_prompts=4", "val.num_samples=2"]
    shared += ["val.ks=[1,2]", "val.every=9", "rollout.max_completion_length=8", "trainer.accelerator=cpu"]
    train = [*LORA, *knobs, "stage.lr=0.01", "stage.examples_per_step=4", "trainer.max_steps=1", "keep_best=false"]
    execute(config("stage=sft", *shared, *train, f"output_dir={run}"), [])
    merged = logits(AutoModelForCausalLM.from_pretrained(run / "model"))
    start = logits(Model.pretrained("r1:tiny_xs", "float32").load(0))
    assert (merged - start).abs().max() > 0.01
    torch.testing.assert_close(
        logits(AutoPeftModelForCausalLM.from_pretrained(run / "adapter")), merged, atol=1e-4, rtol=1e-4
    )
    execute(config("stage=eval", *shared, f"model.path={run / 'adapter'}", f"output_dir={evaluation}"), [])
    trained, evaluated = (read_run(str(folder)).manifest for folder in (run, evaluation))
    assert trained["metrics"]["final"] == evaluated["metrics"]["final"]
    assert evaluated["parents"] == [{"path": str(run), "fingerprint": trained["fingerprint"]}]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma3_text"])
def test_exported_adapter_gives_peft_the_policy_s_logits(make_model: Make, tmp_path: Path, architecture: str) -> None:
    make_model(architecture).save_pretrained(tmp_path / "base")
    policy: Any = load_pretrained(AutoModelForCausalLM, str(tmp_path / "base"), dtype="auto")
    policy = make_lora(use_rslora=True).wrap(policy)
    move(policy)
    expected = logits(policy)
    export(policy, tokenizer(), {1}, tmp_path / "model", adapter_folder=tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base, tmp_path / "adapter")), expected)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(tmp_path / "base")
    assert written["use_rslora"] is True


def test_exported_adapter_that_is_not_the_trained_one_is_rejected(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy: Any = make_lora().wrap(load_pretrained(AutoModelForCausalLM, str(base), dtype="auto"))
    move(policy)

    def save_damaged(model: Any, folder: Path) -> str:
        model.save_pretrained(folder)
        edit_tensors(folder, lambda tensors: next(iter(tensors.values())).mul_(1.5))
        return str(base)

    monkeypatch.setattr("r1.model.export.save_adapters", save_damaged)
    with pytest.raises(UserError, match="log-probs are off"):
        export(policy, tokenizer(), {1}, tmp_path / "model", adapter_folder=tmp_path / "adapter")
    assert (tmp_path / "adapter.rejected").is_dir()


# ---- an adapter's folder as a model ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "r": 4},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens"]},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 5}},
    ],
)
def test_adapter_made_by_peft_loads_merged_and_trainable(base: Path, tmp_path: Path, options: Config) -> None:
    expected = logits(peft_adapter(tmp_path / "adapter", base, **options))
    model = Model.pretrained(str(tmp_path / "adapter"), "float32").load(0)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("lora" in name for name, _ in model.named_modules())
    make_lora().wrap(model)


def test_adapter_of_another_kind_loads_merged(base: Path, tmp_path: Path) -> None:
    options: Config = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "feedforward_modules": []}
    wrapped: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), IA3Config(**options))
    move(wrapped)
    wrapped.save_pretrained(tmp_path / "adapter")
    loaded = Model.pretrained(str(tmp_path / "adapter"), "float32").load(0)
    torch.testing.assert_close(logits(loaded), logits(wrapped), atol=1e-5, rtol=1e-5)


def test_adapter_on_an_adapter_is_merged_after_its_base(base: Path, tmp_path: Path) -> None:
    first: Any = peft_adapter(tmp_path / "first", base)
    policy: Any = make_lora().wrap(Model.pretrained(str(tmp_path / "first"), "float32").load(0))
    torch.testing.assert_close(logits(policy), logits(first), atol=1e-5, rtol=1e-5)
    move(policy)
    expected = logits(policy)
    export(policy, tokenizer(), {1}, tmp_path / "model", adapter_folder=tmp_path / "second")
    with pytest.raises(UserError, match="names no base"):
        Model.pretrained(str(tmp_path / "second"), "float32").load(0)
    loaded = load_pretrained(AutoModelForCausalLM, str(tmp_path / "second"), str(tmp_path / "first"), dtype="auto")
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-5)


def test_small_update_of_an_adapter_survives_a_half_precision_base(base: Path, tmp_path: Path) -> None:
    """Merged in float32: the error is that of one rounding of the sum."""
    wrapped: Any = peft_adapter(tmp_path / "adapter", base)
    merged = wrapped.merge_and_unload().get_submodule(Q_PROJ).weight
    layer = Model.pretrained(str(tmp_path / "adapter"), "bfloat16").load(0).get_submodule(Q_PROJ)
    original = AutoModelForCausalLM.from_pretrained(base).get_submodule(Q_PROJ).weight
    assert layer.weight.dtype == torch.bfloat16
    assert ((layer.weight - merged).abs() <= (original.abs() + merged.abs()) / 256).all()


def test_classifier_takes_the_layers_of_a_language_model_s_adapter(base: Path, tmp_path: Path) -> None:
    peft_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "lm_head"])
    source = Model.pretrained(str(tmp_path / "adapter"), "float32")
    policy, classifier = source.load(0), source.load_classifier(0, tokenizer())
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(
        classifier.base_model(input_ids=ids).last_hidden_state, policy.base_model(input_ids=ids).last_hidden_state
    )


def test_adapter_of_a_reward_model_gives_peft_s_scores(base: Path, tmp_path: Path) -> None:
    options: Config = {"num_labels": 1, "pad_token_id": 0}
    body: Any = AutoModelForSequenceClassification.from_pretrained(base, **options)
    wrapped: Any = get_peft_model(body, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]))
    move(wrapped)
    wrapped.save_pretrained(tmp_path / "adapter")
    loaded = Model.pretrained(str(tmp_path / "adapter"), "float32").load_classifier(5, tokenizer())
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(loaded(input_ids=ids).logits, wrapped.eval()(input_ids=ids).logits)


@pytest.mark.parametrize("own", [False, True])
def test_tokenizer_is_the_adapter_s_or_its_base_s(base: Path, tmp_path: Path, own: bool) -> None:
    peft_adapter(tmp_path / "adapter", base)
    if own:
        changed = tokenizer()
        changed.chat_template = "own"
        changed.save_pretrained(tmp_path / "adapter")
    loaded = Model.pretrained(str(tmp_path / "adapter"), "float32").load_tokenizer()
    assert loaded("3+15=?").input_ids == tokenizer()("3+15=?").input_ids
    assert (loaded.chat_template == "own") is own


# ---- a damaged adapter, before anything is loaded ----


def prompt_tuning(folder: Path, base: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)


DAMAGES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "names no base": (lambda f, b: edit_config(f, base_model_name_or_path=None), "names no base"),
    "is its own base": (lambda f, b: edit_config(f, base_model_name_or_path=str(f)), "its own base"),
    "has a base that is gone": (lambda f, b: edit_config(f, base_model_name_or_path="/gone"), "no such folder"),
    "has a base that is no model": (lambda f, b: (b / "model.safetensors").unlink(), "adapter's base, .* no model"),
    "is not JSON": (lambda f, b: (f / "adapter_config.json").write_text("{"), "names no base"),
    "is a list": (lambda f, b: (f / "adapter_config.json").write_text("[]"), "names no base"),
    "has no weights": (lambda f, b: (f / "adapter_model.safetensors").unlink(), "cannot be merged"),
    "has half a file": (lambda f, b: (f / "adapter_model.safetensors").write_bytes(b"1"), "cannot be merged"),
    "lacks a tensor": (lambda f, b: edit_tensors(f, lambda t: t.pop(sorted(t)[0])), "cannot be merged"),
    "has one more tensor": (lambda f, b: edit_tensors(f, lambda t: t.update(more=torch.ones(2))), "cannot be merged"),
    "is of a wider model": (
        lambda f, b: edit_tensors(f, lambda t: t.update({n: torch.ones(2, 48) for n in t if "lora_A" in n})),
        "cannot be merged",
    ),
    "has another rank": (lambda f, b: edit_config(f, r=3), "cannot be merged"),
    "has other layers": (lambda f, b: edit_config(f, target_modules=["c_attn"]), "cannot be merged"),
    "is of an unknown kind": (lambda f, b: edit_config(f, peft_type="MINE"), "cannot be merged"),
    "is prompt tuning": (prompt_tuning, "cannot be merged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_adapter_is_named_before_the_start(
    config: Callable[..., Config], base: Path, tmp_path: Path, damage: str
) -> None:
    change, message = DAMAGES[damage]
    peft_adapter(tmp_path / "adapter", base)
    change(tmp_path / "adapter", base)
    cfg = config("stage=eval", "model=tiny", f"model.path={tmp_path / 'adapter'}")
    with pytest.raises(UserError, match=message) as caught:
        check_model_paths(cfg)
    assert (caught.value.code, caught.value.key) == (MODEL, "model.path")


def test_base_path_replaces_the_base_of_an_adapter_only(
    config: Callable[..., Config], base: Path, tmp_path: Path
) -> None:
    expected = logits(peft_adapter(tmp_path / "adapter", base))
    edit_config(tmp_path / "adapter", base_model_name_or_path="/gone")
    knobs = ["stage=eval", "model=tiny", f"model.base_path={base}"]
    check_model_paths(config(*knobs, f"model.path={tmp_path / 'adapter'}"))
    loaded = load_pretrained(AutoModelForCausalLM, str(tmp_path / "adapter"), str(base), dtype="auto")
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="a base belongs to an adapter") as caught:
        check_model_paths(config(*knobs))
    assert caught.value.key == "model.base_path"


def test_recipe_and_commands_read_an_adapter_s_base(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    peft_adapter(folder, base)
    assert architecture_of({"path": str(folder)}) == json.loads((base / "config.json").read_text())
    assert split_adapters(str(folder)) == (str(base), [folder])
    assert str(base) in server_command([str(folder)])
    assert str(tmp_path) in server_command([str(folder), "--base", str(tmp_path)])
    assert eval_config(str(folder))["model"]["path"] == str(folder)
