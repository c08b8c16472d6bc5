"""A local model folder before anything is loaded: its files, its JSON, the names and shapes of its tensors."""

from __future__ import annotations

import json
from pathlib import Path

from r1.core.errors import MODEL, UserError
from r1.model.loading import is_classifier, load_fitting

JSON_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
FORMAT = "config.json, *.safetensors, and the tokenizer's files"


def check_model_folder(folder: Path, path: str, needs_tokenizer: bool) -> None:
    """Check everything that can be seen without reading weights.

    Args:
        path: the folder's name in the config.

    Raises:
        UserError: its key is empty, for the config key of the path.
    """
    names = sorted(file.name for file in folder.iterdir())
    if "adapter_config.json" in names:
        base = _read_json(folder / "adapter_config.json", path).get("base_model_name_or_path")
        hint = "merge it first, with peft: model.merge_and_unload().save_pretrained(FOLDER)"
        raise _error(path, f"this is an adapter of {base}, not a model", hint)
    weights = [name for name in names if name.endswith((".safetensors", ".bin"))]
    if not weights or "config.json" not in names:
        gguf = [name for name in names if name.endswith(".gguf")]
        hint = f"it holds {', '.join(gguf or names[:12]) or 'nothing'}"
        convert = "; a GGUF is for inference: take the folder that it was made from" if gguf else ""
        raise _error(path, "this folder holds no model", hint + convert)
    for name in JSON_FILES:
        if name in names:
            _read_json(folder / name, path)
    if needs_tokenizer and not {*names} & {*VOCABULARIES} and not any(name.endswith(".tiktoken") for name in names):
        raise _error(path, "this folder holds no tokenizer", f"expected one of {', '.join(VOCABULARIES)}")
    _check_tensors(folder, path)


def _read_json(file: Path, path: str) -> dict[str, object]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise _error(path, f"{file.name} is not valid JSON", str(error)) from None
    if not isinstance(content, dict):
        raise _error(path, f"{file.name} is not a JSON object", f"it is a {type(content).__name__}")
    return content


def _check_tensors(folder: Path, path: str) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification

    config = _read_json(folder / "config.json", path)
    if (kind := config.get("model_type")) not in CONFIG_MAPPING:
        hint = "r1 runs no code from a model's folder" if "auto_map" in config else "a newer transformers may have it"
        raise _error(path, f"transformers has no architecture `{kind}`, the model_type of config.json", hint)
    kinds = config.get("architectures")
    classifies = isinstance(kinds, list) and any(is_classifier(str(kind)) for kind in kinds)
    load_fitting(AutoModelForSequenceClassification if classifies else AutoModelForCausalLM, path, dtype="auto")


def _error(path: str, message: str, hint: str) -> UserError:
    return UserError(message, value=path, expected=FORMAT, hint=hint, code=MODEL)
