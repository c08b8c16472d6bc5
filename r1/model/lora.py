"""Adapters through peft: low-rank ones are trained, all kinds that can be merged are read from folders."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Interval, MinLen

from r1.core.errors import MODEL, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Lora:
    """Low-rank adapters (Hu et al. 2021) through peft; merged into the weights when the model is exported.

    Args:
        r: rank.
        alpha: updates are multiplied by alpha / r.
        use_rslora: multiply them by alpha / sqrt(r) (Kalajdzievski 2023).
        target_modules: ``all-linear`` (but the output layer), module names, or a regular expression over full names.
        modules_to_save: modules that are trained in full, by the end of their names.
    """

    def __init__(
        self,
        *,
        r: Annotated[int, Ge(1)],
        alpha: Annotated[float, Gt(0)],
        use_rslora: bool,
        dropout: Annotated[float, Interval(ge=0, lt=1)],
        target_modules: str | list[str],
        modules_to_save: Annotated[list[str], MinLen(1)] | None,
    ) -> None:
        self.modules_to_save = modules_to_save or []
        self.options: dict[str, Any] = {
            "r": r,
            "lora_alpha": alpha,
            "use_rslora": use_rslora,
            "lora_dropout": dropout,
            "target_modules": target_modules,
        }

    def check(self, model: PreTrainedModel) -> None:
        """Check on a model without weights (on the meta device) which layers are trained.

        Raises:
            UserError: there are no such layers, or tied embeddings would not be exported as they were trained.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import ModulesToSaveWrapper

        layers = {"input embeddings": model.get_input_embeddings(), "output layer": model.get_output_embeddings()}
        tied = _is_tied(model)
        wrapped: Any = self.wrap(model)
        adapted = [module.get_base_layer() for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]
        for name, layer in layers.items():
            if tied and any(layer is base for base in adapted):
                raise UserError(
                    f"input embeddings and output layer of this model are one matrix: an adapter on the {name} would "
                    "change both when it is merged",
                    key="model.lora.target_modules",
                    value=self.options["target_modules"],
                    hint="model.lora.target_modules=all-linear leaves both out, model.lora.modules_to_save=[lm_head] "
                    "trains the matrix in full",
                )
        copied = [name for name, module in wrapped.named_modules() if isinstance(module, ModulesToSaveWrapper)]
        if missing := [end for end in self.modules_to_save if not any(name.endswith(end) for name in copied)]:
            raise self._modules_error(f"this model has no module `{missing[0]}`", "names of its modules")
        if tied and not _is_tied(wrapped):
            message = "input embeddings and output layer of this model are one matrix: both or neither are trained"
            raise self._modules_error(message, "the names of both")

    def _modules_error(self, message: str, expected: str) -> UserError:
        hint = "embeddings and output layer of most models: model.lora.modules_to_save=[embed_tokens,lm_head]"
        key = "model.lora.modules_to_save"
        return UserError(message, key=key, value=self.modules_to_save, expected=expected, hint=hint)

    def wrap(self, model: PreTrainedModel) -> PreTrainedModel:
        """Raises: UserError: peft is not installed, or has no adapter for these layers."""
        check_peft("model.lora")
        from peft import LoraConfig, get_peft_model

        # peft keeps tied embeddings tied where both are trained; it asks for this option only if they are
        tie = bool(self.modules_to_save) and _is_tied(model)
        options = self.options | {"modules_to_save": self.modules_to_save or None, "ensure_weight_tying": tie}
        try:
            with _quiet_peft():
                wrapped: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
        except (TypeError, ValueError, re.error) as error:
            raise UserError(
                "peft cannot adapt these layers",
                key="model.lora.target_modules",
                value=self.options["target_modules"],
                expected="all-linear, a list of module names, or a regular expression over all of them",
                hint=str(error),
            ) from None
        return wrapped  # type: ignore[no-any-return]


def merge_adapter_folder(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Merge a saved adapter into its base, in float32; all weights of the result can be trained.

    A classifier takes the layers of a language model's adapter, without those of its output layer.

    Args:
        model: the base; on the meta device the adapter's tensors are only compared with it.

    Raises:
        UserError: peft is not installed, cannot merge adapters of this kind, or the adapter is one of another model.
    """
    check_peft("model.path")
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    dtype, is_meta = model.dtype, model.device.type == "meta"
    try:
        with _quiet_peft():
            config, weights = PeftConfig.from_pretrained(str(folder)), load_peft_weights(str(folder), device="cpu")
            if config.task_type == "CAUSAL_LM" and model.get_output_embeddings() is None:
                config.task_type, body = None, f"base_model.model.{model.base_model_prefix}."
                weights = {name: value for name, value in weights.items() if name.startswith(body)}
            wrapped: Any = get_peft_model(model.float(), config)
            missing = get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys() - weights.keys()
            loaded: Any = set_peft_model_state_dict(wrapped, weights, low_cpu_mem_usage=is_meta)
            if not hasattr(wrapped, "merge_and_unload"):  # prompt tuning
                raise ValueError("adapters of this kind are no weights, and cannot be merged")
            if wrong := sorted({*missing, *loaded.unexpected_keys}):
                raise ValueError(f"{len(wrong)} tensors are not those of adapter_config.json, e.g. {wrong[0]}")
            merged: Any = model if is_meta else wrapped.merge_and_unload()
    except Exception as error:  # peft raises many kinds for a damaged folder, or for the adapter of another model
        raise UserError(
            "the adapter cannot be merged into its base",
            key="model.path",
            value=str(folder),
            expected="adapter_config.json and adapter_model.safetensors as peft saves them, and their base",
            hint=f"{type(error).__name__}: {error}"[:400],
            code=MODEL,
        ) from None
    merged.peft_config = {}  # else it could get no other adapter
    return merged.requires_grad_(True).to(dtype)  # type: ignore[no-any-return]


def check_peft(key: str) -> None:
    """Raises: UserError: peft is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UserError("adapters need the extra `peft`", key=key, hint="pip install -e '.[peft]'") from None


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and model.get_input_embeddings().weight is head.weight


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """peft uses deprecated parts of transformers, and warns of tied embeddings, which ``Lora.check`` looks after."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
