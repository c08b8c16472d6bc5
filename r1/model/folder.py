"""A local model folder before anything is loaded: its files, its JSON, the names and shapes of its tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1.core.errors import MODEL, UserError
from r1.core.model_paths import ADAPTER_CONFIG, VOCABULARIES, has_tokenizer
from r1.model.loading import is_classifier, load_config, load_fitting
from r1.model.lora import merge_adapter_folder

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
JSON_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *INDEXES,
)
WEIGHTS = ("model.safetensors", INDEXES[0], "pytorch_model.bin", INDEXES[1])  # transformers reads the first that exists
FLOATS = ("F64", "F32", "F16", "BF16")  # dtypes of safetensors
FORMAT = "config.json, *.safetensors, and the tokenizer's files"


def check_model_folder(folder: Path, path: str, needs_tokenizer: bool) -> None:
    """Check everything that can be seen without reading weights.

    Args:
        path: the folder's name in the config.

    Raises:
        UserError: its key is empty, for the config key of the path.
    """
    names = sorted(file.name for file in folder.iterdir())
    for name in [name for name in names if name in (*JSON_FILES, *WEIGHTS) and not (folder / name).is_file()]:
        raise _error(path, f"{name} is not a file", "it is a link that leads nowhere, or a folder")
    weights = next((name for name in WEIGHTS if name in names), None)
    if weights is None or "config.json" not in names:
        gguf = [name for name in names if name.endswith(".gguf")]
        hint = f"it holds {', '.join(gguf or names[:12]) or 'nothing'}"
        convert = "; a GGUF is for inference: take the folder that it was made from" if gguf else ""
        raise _error(path, "this folder holds no model", hint + convert)
    contents = {name: _read_json(folder / name, path) for name in JSON_FILES if name in names}
    if needs_tokenizer and not has_tokenizer(folder):
        raise _error(path, "this folder holds no tokenizer", f"expected one of {', '.join(VOCABULARIES)}")
    _check_end_tokens(contents.get("generation_config.json", {}), path)
    _check_tensors(path, contents["config.json"], _check_files(folder, path, weights, contents))


def check_adapters(base: str, adapters: Sequence[Path]) -> None:
    """Check that adapters are complete and fit their base, of which only config.json is read.

    Raises:
        UserError: they do not.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    config = load_config(base)
    config.num_labels = 1
    classifies = _read_json(adapters[-1] / ADAPTER_CONFIG, str(adapters[-1])).get("task_type") == "SEQ_CLS"
    with torch.device("meta"):  # no memory is allocated
        auto: Any = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
        model = auto.from_config(config)
        for folder in adapters:
            model = merge_adapter_folder(model, folder)


def _read_json(file: Path, path: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _error(path, f"{file.name} is not valid JSON", str(error)) from None
    if not isinstance(content, dict):
        raise _error(path, f"{file.name} is not a JSON object", f"it is a {type(content).__name__}")
    return content


def _check_end_tokens(generation_config: dict[str, Any], path: str) -> None:
    ends = generation_config.get("eos_token_id")
    if not all(type(end) is int for end in (ends if isinstance(ends, list) else [] if ends is None else [ends])):
        hint = f"it is {ends!r}, and not a number or a list of numbers"
        raise _error(path, "eos_token_id of generation_config.json is not a token id", hint)


def _check_files(folder: Path, path: str, weights: str, contents: dict[str, dict[str, Any]]) -> set[str]:
    """Check that the files of the weights are there and complete; the names of tensors that are not floating-point."""
    from safetensors import SafetensorError, safe_open

    files = [weights]
    if weights.endswith(".json"):
        shards = contents[weights].get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise _error(path, f"{weights} has no weight_map", "it maps the name of each tensor to a file")
        files = sorted({str(file) for file in shards.values()})
        if lost := [file for file in files if not (folder / file).is_file()]:
            raise _error(path, f"{weights} names files that are not there", ", ".join(lost[:3]))
    integers = set()
    for name in filter(lambda name: name.endswith(".safetensors"), files):
        try:
            with safe_open(folder / name, "pt") as file:
                integers |= {key for key in file.keys() if file.get_slice(key).get_dtype() not in FLOATS}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise _error(path, f"{name} is not a complete safetensors file", str(error)) from None
    return integers


def _check_tensors(path: str, config: dict[str, Any], integers: set[str]) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        hint = "r1 runs no code from a model's folder" if "auto_map" in config else "a newer transformers may have it"
        raise _error(path, f"transformers has no architecture `{kind}`, the model_type of config.json", hint)
    kinds = config.get("architectures")
    classifies = isinstance(kinds, list) and any(is_classifier(str(kind)) for kind in kinds)
    auto = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    model = load_fitting(auto, path, dtype="auto")
    wrong = sorted(name for name, _ in model.named_parameters() if name in integers)
    if wrong and "quantization_config" not in config:
        hint = f"{wrong[0]} and {len(wrong) - 1} more; a quantised model is for inference"
        raise _error(path, "these weights are not floating-point numbers", hint)


def _error(path: str, message: str, hint: str) -> UserError:
    return UserError(message, value=path, expected=FORMAT, hint=hint, code=MODEL)
