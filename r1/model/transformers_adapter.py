"""The parts of transformers' and peft's interfaces that are private or change between versions, in one place.

Attention functions are replaced by name: ``AttentionInterface`` registers a function, and each layer looks up
``config._attn_implementation`` at every forward. That attribute is private: transformers writes it when a model is
built, and its public counterpart, the argument ``attn_implementation``, is read then only. What r1's functions need
besides the layer's arguments reaches them in a context variable: not every architecture passes ``**kwargs`` through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

# keyword arguments of attention that change nothing here: r1's masks come from ``mask_pattern``
WITHOUT_EFFECT = {"sliding_window", "is_causal", "position_ids", "output_attentions", "use_cache", "past_key_values"}

_layout: ContextVar[Any] = ContextVar("layout", default=None)


@dataclass(frozen=True, eq=False)
class MaskPattern:
    """A sliding window, or chunks: the part of its past that a token sees.

    Attributes:
        function: transformers' mask function of (batch index, head, query position, key position).
        reach: tokens; shorter sequences are seen whole.
    """

    function: Callable[..., Tensor]
    reach: int

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Whether tokens at the positions ``queries`` see those at ``keys``; shapes are broadcast."""
        zero = queries.new_zeros(())
        return self.function(zero, zero, queries, keys)

    @cached_property
    def slides(self) -> bool:
        """Whether it is a window: the token at ``reach`` sees position 1; with chunks it begins the second one."""
        import torch

        return bool(self.visible(torch.tensor(self.reach), torch.tensor(1)))


def mask_pattern(
    *,
    mask_function: Callable[..., Any],
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    **_: Any,
) -> MaskPattern | None:
    """transformers' mask interface; the layers hand the result to their attention. None: the whole past.

    Raises:
        ValueError: the mask is neither causal nor a part of the causal one.
    """
    from transformers.masking_utils import causal_mask_function

    if use_vmap or not allow_is_causal_skip or (local_size is None and mask_function is not causal_mask_function):
        raise ValueError("a mask that r1's attention does not know")
    return None if local_size is None else MaskPattern(mask_function, local_size)


@contextmanager
def custom_attention(model: PreTrainedModel, function: Callable[..., Any], layout: Any) -> Iterator[None]:
    """Inside, ``function`` is the model's attention; it receives ``layout`` behind the mask.

    The mask is a ``MaskPattern`` or None where the forward is given a mask of ones; without any, transformers would
    read sequences of its own out of the position ids.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        return function(module, query, key, value, mask, _layout.get(), **kwargs)

    name = f"r1_{function.__module__}"
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask_pattern)
    with attention_implementation(model.config, name, layout):
        yield


@contextmanager
def attention_implementation(config: PretrainedConfig, name: str, layout: Any = None) -> Iterator[None]:
    """Inside, layers look up their attention by this name, and r1's functions receive this layout."""
    original = config._attn_implementation
    config._attn_implementation = name
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)
        config._attn_implementation = original


@contextmanager
def custom_experts(config: PretrainedConfig, function: Callable[..., Tensor]) -> Iterator[None]:
    """Inside, ``function`` computes the experts of MoE layers."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    name, original = f"r1_{function.__module__}", config._experts_implementation
    ALL_EXPERTS_FUNCTIONS.register(name, function)
    config._experts_implementation = name
    try:
        yield
    finally:
        config._experts_implementation = original


def check_attention(attention_mask: Any, kwargs: dict[str, Any]) -> MaskPattern | None:
    """The mask of a layer's attention.

    Raises:
        ValueError: a mask of the model's own, or an argument that r1's attention lacks, such as a position bias.
    """
    if extras := [name for name, value in kwargs.items() if value is not None and name not in WITHOUT_EFFECT]:
        raise ValueError(f"attention with {', '.join(extras)}")
    if not isinstance(attention_mask, MaskPattern | None):
        raise ValueError("attention with a mask of its own")
    return attention_mask


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Recompute each layer in backward, with the attention function and layout that it had in forward."""
    options = {"use_reentrant": False, "context_fn": partial(checkpoint_contexts, model.config)}
    # transformers 6 renames the method
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)


def checkpoint_contexts(config: PretrainedConfig) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a layer's forward and of its recomputation: backward runs after ``custom_attention`` has ended."""
    return nullcontext(), attention_implementation(config, config._attn_implementation, _layout.get())


def exceeds_fixed_rope(config: PretrainedConfig, length: int) -> bool:
    """Whether the rotations of ``length`` tokens depend on the longest sequence of their batch."""
    text_config = config.get_text_config()
    rope = vars(text_config).get("rope_parameters") or {}
    limits = {"dynamic": "max_position_embeddings", "longrope": "original_max_position_embeddings"}
    for parameters in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        name = limits.get(str(parameters.get("rope_type")))
        if name and length > (parameters.get(name) or text_config.max_position_embeddings):
            return True
    return False


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether FSDP2 gathers weights in this model's forward, which then is a collective."""
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def reset_rotations(model: PreTrainedModel) -> None:
    """Forget the longest sequence so far: rotations of type ``dynamic`` keep the frequencies that they grew to."""
    for module in model.modules():
        original = vars(module).get("original_max_seq_len")
        for name, value in list(vars(module).items()) if original else ():
            if name.endswith("max_seq_len_cached") and value != original:
                prefix = name.removesuffix("max_seq_len_cached")
                setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq").clone())
                setattr(module, name, original)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars and no table of missing tensors: errors name them."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def unwrap_peft(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model with its adapters in place, without peft's wrapper around it."""
    get_base_model = getattr(model, "get_base_model", None)  # peft's models alone have it
    return get_base_model() if get_base_model else model


def body(model: PreTrainedModel) -> Any:
    """The part of an unwrapped causal LM below its output layer; the model itself where there is no such part."""
    from transformers import PreTrainedModel

    if model.base_model is not model:
        return model.base_model
    # llama4_text names another prefix than that of its only child
    return next((child for child in model.children() if isinstance(child, PreTrainedModel)), model)


def merge_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model with its adapters merged, which takes them away from ``model``; any other as it is."""
    return model.merge_and_unload() if has_adapters(model) else model  # type: ignore[operator, no-any-return]


def output_layer(model: PreTrainedModel) -> Any:
    """The layer that gives the logits; of peft's ``modules_to_save`` the copy that is trained."""
    head: Any = unwrap_peft(model).get_output_embeddings()
    copies = getattr(head, "modules_to_save", None)  # peft's wrapper alone has it
    return copies[head.active_adapters[0]] if copies else head


def has_adapters(model: PreTrainedModel) -> bool:
    return hasattr(model, "merge_and_unload")


def save_adapters(model: PreTrainedModel, folder: Path) -> str | None:
    """Write the adapters of a model as peft reads them; returns their base's folder or hub id, None if it has none."""
    # False: peft would look for the base on the hub, to see whether its vocabulary has been resized
    model.save_pretrained(folder, save_embedding_layers=False)
    adapters: Any = model
    return adapters.peft_config["default"].base_model_name_or_path or None


GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def render_template(
    chat_template: str, messages: list[dict[str, Any]], date: datetime, variables: dict[str, Any]
) -> tuple[str, list[tuple[int, int]] | None]:
    """The text of a conversation as ``apply_chat_template`` writes it, where ``strftime_now`` formats ``date``.

    And the (start, end) of each part that the template marks with ``{% generation %}``; None: it marks none.

    transformers keeps compiled templates, so that ``render_jinja_template`` uses the one that is changed here; its
    public arguments are plain data and can replace no function.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

    _compile_jinja_template(chat_template).globals["strftime_now"] = date.strftime
    marks = GENERATION.search(chat_template) is not None
    rendered: Any = render_jinja_template(  # annotated as text, and a pair of lists
        [messages], chat_template=chat_template, return_assistant_tokens_mask=marks, **variables
    )
    texts, spans = rendered
    return str(texts[0]), spans[0] if marks else None
