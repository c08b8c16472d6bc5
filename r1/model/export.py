"""The trained policy as a Hugging Face folder, which is loaded again and compared before the run ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from r1.core.errors import MODEL, UserError
from r1.core.storage import named, require_regular
from r1.model.functional import token_logps
from r1.model.loading import load_pretrained
from r1.model.transformers_adapter import attention_implementation, has_adapters, merge_adapters, save_adapters

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

PROBE_ROWS, PROBE_TOKENS = 4, 64
TOLERANCE, HALF_TOLERANCE = 1e-4, 0.05  # of a log-prob, in float32 and in half precision


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: set[int],
    folder: Path,
    keep_adapters: bool = False,
    adapter_folder: Path | None = None,
) -> None:
    """Write a causal LM, adapters merged: ready for ``from_pretrained`` and for inference servers.

    Args:
        stop_ids: the tokens that ended completions in training; generation with the exported model ends at them, too.
        keep_adapters: merge a copy, so that ``model`` can be trained on. False: ``model`` may lose its adapters.
        adapter_folder: where the adapters are written in peft's own format, if the model has any.

    Raises:
        UserError: the folder, loaded again, is another model.
    """
    from transformers import AutoModelForCausalLM

    dtype = model.dtype
    if has_adapters(model):  # merged in float32: in bfloat16 most of an update would be rounded away
        model = (copy.deepcopy(model) if keep_adapters else model).float()
    expected = probe_logps(model)
    if adapter_folder and has_adapters(model):
        with named(adapter_folder):
            base = save_adapters(model, adapter_folder)
            _write_tokenizer(tokenizer, adapter_folder)
        if base:
            check_export(adapter_folder, AutoModelForCausalLM, probe_logps, expected, dtype)
    merged = merge_adapters(model)
    merged.generation_config = _generation_config(merged, stop_ids)
    _write(merged, tokenizer, folder)
    check_export(folder, AutoModelForCausalLM, probe_logps, expected)


def _generation_config(model: PreTrainedModel, stop_ids: set[int]) -> GenerationConfig:
    """The model's own, without the settings that have no effect: transformers loads them, but does not save them.

    A common one is a temperature beside greedy decoding.
    """
    from transformers import GenerationConfig

    assert model.generation_config is not None
    original = model.generation_config.to_diff_dict() | {"eos_token_id": sorted(stop_ids)}
    settings: dict[str, Any] = {}
    for name in sorted(original, key=lambda name: (name not in ("do_sample", "num_beams"), name)):  # others need these
        with suppress(ValueError):
            GenerationConfig(**settings, **{name: original[name]}).validate(strict=True)
            settings[name] = original[name]
    return GenerationConfig(**settings)


def export_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a reward model.

    Raises:
        UserError: the folder, loaded again, is another model.
    """
    from transformers import AutoModelForSequenceClassification

    expected = probe_logits(model)
    _write(model, tokenizer, folder)
    check_export(folder, AutoModelForSequenceClassification, probe_logits, expected)


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    for file in folder.glob("*"):  # of an earlier export
        require_regular(file)
        if file.stat().st_nlink > 1:  # the file is one with that of best/, which keeps it
            file.unlink()
    with named(folder):
        model.save_pretrained(folder)
        _write_tokenizer(tokenizer, folder)


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    for name in ("is_local", "local_files_only"):  # traces of this loading, written to tokenizer_config.json otherwise
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(folder)


def check_export(
    folder: Path, auto: Any, probe: Callable[[Any], Tensor], expected: Tensor, dtype: torch.dtype | str = "auto"
) -> None:
    """Load a folder with transformers, and peft for an adapter, and compare its probe with that of the policy.

    Args:
        dtype: of an adapter's base; a model's is in its files.

    Raises:
        UserError: they differ, or are not finite. The folder is renamed, so that nothing takes it for the model.
    """
    try:
        reloaded: Any = load_pretrained(auto, str(folder), dtype=dtype)
        gap = float((probe(reloaded.to(expected.device)) - expected).abs().max())
        tolerance = TOLERANCE if reloaded.dtype == torch.float32 else HALF_TOLERANCE
        if not gap <= tolerance:  # also true for NaN
            raise UserError(
                f"the exported model is not the trained one: log-probs are off by {gap:.3g}",
                expected=f"at most {tolerance:g} in {PROBE_ROWS} rows of {PROBE_TOKENS} tokens",
                code=MODEL,
            )
    except UserError as error:
        error.value = str(folder.rename(folder.with_name(f"{folder.name}.rejected")))
        error.hint = f"{error.hint or 'the checkpoints in checkpoints/ hold the trained weights'}"
        raise


def probe_logps(model: PreTrainedModel) -> Tensor:
    """(4, 63) log-probs of fixed tokens by transformers' own forward, float32."""
    return token_logps(probe_logits(model)[:, :-1], _probe_ids(model)[:, 1:], 1.0)


@torch.no_grad()
def probe_logits(model: PreTrainedModel) -> Tensor:
    """(4, 64, V) logits of a causal LM, or (4, 1) scores of a reward model, float32."""
    was_training = model.training
    model.eval()
    try:
        # eager: the one attention that every model has in every precision
        with torch.autocast(model.device.type, enabled=False), attention_implementation(model.config, "eager"):
            logits: Tensor = model(input_ids=_probe_ids(model)).logits
    finally:
        model.train(was_training)
    return logits.float()


def _probe_ids(model: PreTrainedModel) -> Tensor:
    """(4, 64) token ids, the same for each model of the same vocabulary; shorter where the context is."""
    config = model.config.get_text_config()
    length = min(PROBE_TOKENS, getattr(config, "max_position_embeddings", PROBE_TOKENS))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (PROBE_ROWS, length), generator=generator).to(model.device)
