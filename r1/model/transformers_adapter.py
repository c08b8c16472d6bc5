"""The parts of transformers' and peft's interfaces that are private or change between versions, in one place.

Attention functions are replaced by name: ``AttentionInterface`` registers a function, and each layer looks up
``config._attn_implementation`` at every forward. That attribute is private: transformers writes it when a model is
built, and its public counterpart, the argument ``attn_implementation``, is read then only. Keyword arguments that a
model's forward does not know reach the attention function in the architectures that pass ``**kwargs`` through; others
raise a TypeError or ignore them, which the probes of r1.model.forward and r1.rollout.decoding.decoder detect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@contextmanager
def custom_attention(model: PreTrainedModel, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, ``function`` is the model's attention; it also receives extra keyword arguments of the forward."""
    from transformers import AttentionInterface

    name = f"r1_{function.__module__}"
    AttentionInterface.register(name, function)
    with attention_implementation(model.config, name):
        yield


@contextmanager
def attention_implementation(config: PretrainedConfig, name: str) -> Iterator[None]:
    """Inside, layers look up their attention by this name."""
    original = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = original


def check_unsupported_attention(kwargs: dict[str, Any]) -> None:
    """Raises: ValueError: the layer's scores have a soft cap, sinks or a position bias, which r1's functions lack."""
    if extras := [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]:
        raise ValueError(f"attention with {', '.join(extras)}")


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Recompute each layer in backward, with the attention function that it had in forward."""
    options = {"use_reentrant": False, "context_fn": partial(checkpoint_contexts, model.config)}
    # transformers 6 renames the method
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)


def checkpoint_contexts(config: PretrainedConfig) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a layer's forward and of its recomputation: backward runs after ``custom_attention`` has ended."""
    return nullcontext(), attention_implementation(config, config._attn_implementation)


def fits_sliding_window(config: PretrainedConfig, length: int) -> bool:
    """Whether full attention equals the model's own for ``length`` tokens: r1's functions have no sliding window."""
    window = getattr(config, "sliding_window", None)  # absent or None in most architectures
    return window is None or length <= window


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
