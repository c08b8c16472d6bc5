"""The policy and its tokenizer: any causal LM in the transformers format, local, on the hub, or shipped with r1."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from r1.core.errors import MODEL, UserError
from r1.core.model_paths import has_tokenizer, resolve_model_path, split_adapters
from r1.model.lora import Lora, merge_adapter_folder
from r1.model.recipe import Recipe
from r1.model.transformers_adapter import enable_gradient_checkpointing, quiet_loading

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SPLIT_PROBE = "<think> 3 plus 15 is 1234, it's 等等。</think>\n<answer>3.14</answer>"
OLD_BUFFERS = (".attn.bias", ".attention.bias", ".masked_bias", ".inv_freq")  # in files of older transformers: masks
DType = Literal["float32", "bfloat16", "float16"]
Precision = Literal["32-true", "bf16-mixed", "auto"]  # of matrix products in training and validation


class Model:
    """Where the policy comes from; nothing is loaded before the first ``load_*`` call.

    Args:
        path: a hub id, a local folder, a run's folder, or ``r1:<name>`` for a model shipped with r1; null: random
            weights from ``config``. A folder with an adapter is the model with the adapter merged.
        base_path: the base of an adapter in ``path``; null: the one in its adapter_config.json.
        config: a transformers config (``model_type`` and its fields) for random weights; null with a ``path``.
        tokenizer: where the tokenizer comes from; null: from ``path``.
        precision: the default of ``trainer.precision``, which refers to it.
        attn_implementation: null: the best that transformers has for this architecture, sdpa or eager.
        recipe: defaults of other groups' keys for a model of this size; the config interpolates them.
    """

    def __init__(
        self,
        *,
        path: str | None,
        base_path: str | None,
        config: dict[str, Any] | None,
        tokenizer: str | None,
        dtype: DType,
        precision: Precision,
        attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None,
        gradient_checkpointing: bool,
        lora: Lora | None,
        recipe: Recipe | None,
    ) -> None:
        if (path is None) == (config is None):
            raise UserError(
                "a model is either loaded (`path`) or initialised (`config`)",
                key="model.path",
                value=path,
                hint="set exactly one of model.path and model.config",
            )
        self.path, self.base_path, self.tokenizer_path = path, base_path, tokenizer or path
        self.config_fields = config
        self.dtype, self.precision, self.attn_implementation = dtype, precision, attn_implementation
        self.gradient_checkpointing, self.lora, self.recipe = gradient_checkpointing, lora, recipe

    @classmethod
    def pretrained(cls, path: str, dtype: DType) -> Model:
        """The model of a path as it is, to score or to answer with."""
        options: dict[str, Any] = {
            "precision": "32-true",
            "attn_implementation": None,
            "gradient_checkpointing": False,
            **dict.fromkeys(("base_path", "config", "tokenizer", "lora", "recipe")),
        }
        return cls(path=path, dtype=dtype, **options)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        if self.tokenizer_path is None:
            raise UserError("random weights need a tokenizer", key="model.tokenizer", hint="model.tokenizer=r1:tiny")
        base_path = self.base_path if self.tokenizer_path == self.path else None
        path, adapters = split_adapters(self.tokenizer_path, base_path)
        if own := [folder for folder in adapters if has_tokenizer(folder)]:
            # the architecture, which such a folder lacks, decides the tokenizer's class
            tokenizer = _load(AutoTokenizer.from_pretrained, str(own[-1]), config=load_config(path))
        else:
            tokenizer = _load(AutoTokenizer.from_pretrained, path)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self.config_fields is not None:
            self._check_exportable(tokenizer)
        return tokenizer  # type: ignore[no-any-return]

    def _check_exportable(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that the tokenizer of a model with random weights survives export.

        transformers picks the tokenizer's class by ``model_type``, and for some types rewrites how it splits text.
        """
        from transformers import AutoTokenizer

        with TemporaryDirectory() as folder:
            self._architecture(tokenizer).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            reloaded = AutoTokenizer.from_pretrained(folder)
        if reloaded(SPLIT_PROBE).input_ids != tokenizer(SPLIT_PROBE).input_ids:
            model_type = (self.config_fields or {}).get("model_type")
            raise UserError(
                f"transformers reloads this tokenizer differently with a {model_type} model, so the exported "
                "model would not be the trained one",
                key="model.config.model_type",
                value=model_type,
                hint="model.config.model_type=llama does not change tokenizers",
                code=MODEL,
            )

    def load_config(self) -> PretrainedConfig:
        """The architecture alone: a few kilobytes, enough to check lengths before any weight is read."""
        if self.path is not None:
            return load_config(split_adapters(self.path, self.base_path)[0])
        return self._architecture(self.load_tokenizer())

    def _architecture(self, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
        from transformers import AutoConfig

        ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
        fields: dict[str, Any] = {"vocab_size": len(tokenizer)} | ids | (self.config_fields or {})
        try:
            return AutoConfig.for_model(**fields)  # type: ignore[no-any-return]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                "transformers rejects this config", key="model.config", value=self.config_fields, hint=str(error)
            ) from None

    def check_layers(self) -> None:
        """Check the attention, and which layers get adapters, on a model without weights.

        Raises:
            UserError: transformers lacks this attention for this architecture, or as in ``Lora.check``.
        """
        import torch
        from transformers import AutoModelForCausalLM

        if not (self.lora or self.attn_implementation):
            return
        config = self.load_config()
        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, attn_implementation=self.attn_implementation)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{config.model_type} models do not run with this attention",
                key="model.attn_implementation",
                value=self.attn_implementation,
                hint=f"model.attn_implementation=null takes one that they have; {error}",
            ) from None
        if self.lora:
            with torch.device("meta"):
                self.lora.check(model)

    def load(self, seed: int) -> PreTrainedModel:
        """The policy, in train mode, on the CPU; random weights are a function of ``seed``."""
        from transformers import AutoModelForCausalLM

        return self._instantiate(AutoModelForCausalLM, seed)

    def load_classifier(self, seed: int, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The same weights with one output per sequence in place of the language-model head.

        Args:
            seed: keys the output layer where the weights have none.
            tokenizer: its padding token is how the model finds the end of a padded sequence.
        """
        from transformers import AutoModelForSequenceClassification

        config = self.load_config()
        config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
        return self._instantiate(AutoModelForSequenceClassification, seed, config)

    def _instantiate(self, auto: Any, seed: int, config: PretrainedConfig | None = None) -> PreTrainedModel:
        import torch

        options = {"dtype": getattr(torch, self.dtype), "attn_implementation": self.attn_implementation}
        model: PreTrainedModel
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.path is not None:
                if config:
                    options["config"] = config
                model = load_pretrained(auto, self.path, self.base_path, **options)
            else:
                model = auto.from_config(config or self.load_config(), **options)
            if model.config.model_type == "rwkv":
                model.config.rescale_every = 0  # against overflow of float16: evaluation would rewrite the weights
            if self.gradient_checkpointing:
                enable_gradient_checkpointing(model)
            model = self.lora.wrap(model) if self.lora else model
        model.train()
        return model


def load_pretrained(auto: Any, path: str, base_path: str | None = None, **options: Any) -> PreTrainedModel:
    """``auto.from_pretrained`` where all weights come from the files and are finite; adapters are merged.

    ``name_or_path`` of the model is the folder or hub id of these very weights, or empty: adapters that are trained on
    it are saved with this base.

    Args:
        base_path: as in ``split_adapters``.

    Raises:
        UserError: the model cannot be loaded, or transformers would have to fill in tensors at random.
    """
    import torch

    base, adapters = split_adapters(path, base_path)
    model = load_fitting(auto, base, **options)
    for folder in adapters:
        model = merge_adapter_folder(model, folder)
    model.name_or_path = "" if adapters else str(Path(base).absolute()) if Path(base).is_dir() else base
    tensors = {name: value for name, value in model.state_dict().items() if value.is_floating_point() and len(value)}
    # the extremes of a tensor are not finite if one of its elements is not, and need no memory
    broken = [name for name, value in tensors.items() if not torch.stack(value.aminmax()).isfinite().all()]
    if broken:
        raise _model_error(
            "the weights are not all finite", path, "finite numbers", f"NaN or infinity in {_some(broken)}"
        )
    return model


def load_fitting(auto: Any, path: str, **options: Any) -> PreTrainedModel:
    """``auto.from_pretrained`` with a check of the tensors' names and shapes.

    With ``dtype="auto"`` it reads no weights: safetensors are mapped into memory.

    Raises:
        UserError: as in ``load_pretrained``, apart from the finite weights.
    """
    loaded = _load(auto.from_pretrained, path, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    model: PreTrainedModel = loaded[0]
    missing, unexpected = loaded[1]["missing_keys"], loaded[1]["unexpected_keys"]
    if is_classifier(type(model).__name__) and not any(map(is_classifier, model.config.architectures or [])):
        missing = {name for name in missing if name.startswith(model.base_model_prefix)}  # the head is to be trained
    problems = {
        "missing": missing,
        "of another shape": {f"{name} {tuple(stored)}" for name, stored, _ in loaded[1]["mismatched_keys"]},
        "that config.json lacks": _foreign_weights(model, unexpected),
    }
    if any(problems.values()):
        hint = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        message = "the weights are not those of the architecture in config.json"
        raise _model_error(message, path, "each of its tensors, in its shape", hint)
    return model


def _foreign_weights(model: PreTrainedModel, unexpected: Iterable[str]) -> set[str]:
    """The unused tensors without which a model is another one: of its layers, or of its blocks.

    Tensors outside of these belong to other uses of the same file: heads, a vision tower.
    """
    from torch import nn

    parts = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if name and (isinstance(module, nn.ModuleList) or any(True for _ in module.parameters(recurse=False)))
    )
    buffers = {name for name, _ in model.named_buffers()}
    foreign = {name for name in unexpected if name.startswith(parts) and name not in buffers}
    return {name for name in foreign if not name.endswith(OLD_BUFFERS)}


def is_classifier(architecture: str) -> bool:
    return architecture.endswith("ForSequenceClassification")


def load_config(path: str) -> PretrainedConfig:
    """The architecture of a folder or hub id."""
    from transformers import AutoConfig

    return _load(AutoConfig.from_pretrained, path)  # type: ignore[no-any-return]


def _load(load: Any, path: str, **kwargs: Any) -> Any:
    try:
        with quiet_loading():
            return load(resolve_model_path(path), **kwargs)
    except Exception as error:  # a broken folder may raise anything in transformers
        expected = "a local folder in the transformers format, a run's folder, a hub id, or r1:<name>"
        raise _model_error("the model cannot be loaded", path, expected, f"{type(error).__name__}: {error}") from None


def _model_error(message: str, path: str, expected: str, hint: str) -> UserError:
    return UserError(message, key="model.path", value=path, expected=expected, hint=hint, code=MODEL)


def _some(names: Iterable[str]) -> str:
    """The first of these names, as many as an error's line holds."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that close a completion: those of the generation config and of the tokenizer."""
    eos = model.generation_config.eos_token_id if model.generation_config else None  # an id, a list of ids, or None
    eos_ids = eos if isinstance(eos, list) else [eos]
    return {token for token in (*eos_ids, tokenizer.eos_token_id) if token is not None}
