"""The models and datasets that a config names: are they where it says, and can random weights be made as it asks?"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r1.config.build import nodes_of
from r1.core.errors import DATA, MODEL, UserError, as_yaml_null, suggest
from r1.core.types import Config
from r1.model.loading import resolve_model_path


def models(cfg: Config) -> None:
    """Folders of models, before a hub is asked for what looks like a folder."""
    for where, node in nodes_of(cfg):
        for key in ("path", "tokenizer") if not where.startswith("data") else ():
            if isinstance(path := node.get(key), str):
                _check_folder(path, f"{where}.{key}", needs_weights=key == "path")


def _check_folder(path: str, where: str, needs_weights: bool) -> None:
    def wrong(what: str, allowed: str | list[str], do: str) -> UserError:
        return UserError(what, key=where, value=path, expected=allowed, hint=do, code=MODEL)

    try:
        folder = Path(resolve_model_path(path))
    except UserError as error:
        names = error.expected.split(", ")
        raise wrong(error.message, names, suggest(path, names)) from None
    if not folder.exists() and (path.startswith(("/", ".", "~")) or path.count("/") > 1):
        allowed = "a folder in the transformers format, a run's folder, a hub id (owner/name), or r1:<name>"
        do = "write the whole path: ~ is not expanded" if path.startswith("~") else f"looked in {folder.absolute()}"
        raise wrong("there is no such folder", allowed, do)
    if not folder.exists():
        _check_hub(path, where, "config.json" if needs_weights else "tokenizer_config.json")
    if folder.is_dir() and needs_weights:
        weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
        if not (weights and (folder / "config.json").is_file()):
            holds = ", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "nothing"
            allowed = "a folder with config.json and *.safetensors"
            raise wrong("this folder holds no model", allowed, f"it holds {holds}")


def hub_data(cfg: Config) -> None:
    """Datasets on the hub, before they are downloaded; what is on disk in any form is left to its loader."""
    for where, node in nodes_of({"data": cfg["data"]}):
        path = str(node.get("path"))
        unseen = "train_split" in node and not Path(path).expanduser().exists()
        if unseen and re.fullmatch(r"[\w.-]+/[\w.-]+", path):
            _check_dataset(path, f"{where}.path")


def _check_dataset(path: str, where: str) -> None:
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    owner, dataset = path.split("/")
    if not Path(config.HF_DATASETS_CACHE, f"{owner}___{camelcase_to_snakecase(dataset)}").exists():
        _check_hub(path, where, "README.md", kind="dataset", code=DATA)


def _check_hub(path: str, where: str, file: str, kind: str = "model", code: int = MODEL) -> None:
    """One question to the hub, unless ``file`` is in the local cache: loading would ask a dozen times."""
    from huggingface_hub import HfApi, errors, try_to_load_from_cache

    address = f"huggingface.co/{'datasets/' if kind == 'dataset' else ''}{path}"
    try:
        if not isinstance(try_to_load_from_cache(path, file, repo_type=kind), str):
            HfApi().repo_info(path, repo_type=kind, timeout=10)
        return
    except (errors.HFValidationError, errors.RepositoryNotFoundError):
        message = f"there is no such folder, and no such {kind} on the hub (or it needs `hf auth login`)"
    except Exception as error:  # no network, a proxy, a mirror: the client raises many kinds
        message = f"there is no such folder, and the hub cannot be asked: {type(error).__name__}"
    hint = f"looked in {Path(path).absolute()} and at {address}"
    raise UserError(message, key=where, value=path, hint=hint, code=code)


def architecture(cfg: Config) -> None:
    """Random weights: the fields must be ones that the architecture has, and must make a model (on no device)."""
    fields = cfg["model"].get("config")
    if fields is None:
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = fields.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            "transformers has no such causal language model",
            key="model.config.model_type",
            value=as_yaml_null(kind),
            expected="llama, qwen2, qwen3, gemma3_text and all others in transformers",
            hint=suggest(str(kind), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        )
    default = AutoConfig.for_model(kind)
    known = sorted(name for name in {*default.to_dict(), *default.attribute_map} if not name.startswith("_"))
    for name in [name for name in fields if name not in known]:
        where = f"model.config.{name}"
        message = f"unknown key `{where}`: a {kind} model does not read it"
        hint = suggest(name, known, "model.config.")
        raise UserError(message, key=where, value=as_yaml_null(fields[name]), expected=known, hint=hint)
    for name in [name for name in fields if name.startswith("num_") or name.endswith("_size")]:
        if isinstance(fields[name], int) and fields[name] < 1:
            where = f"model.config.{name}"
            raise UserError(f"wrong value for `{where}`", key=where, value=fields[name], expected="whole number >= 1")
    config = _made(lambda: AutoConfig.for_model(**fields), fields)
    heads, groups = getattr(config, "num_attention_heads", 1), getattr(config, "num_key_value_heads", None) or 1
    if heads % groups:
        message = f"{heads} query heads do not divide over {groups} key/value heads"
        raise UserError(message, key="model.config.num_key_value_heads", value=groups, expected=f"a divisor of {heads}")
    with torch.device("meta"):
        _made(lambda: AutoModelForCausalLM.from_config(config), fields)


def _made(make: Callable[[], Any], fields: Config) -> Any:
    try:
        return make()
    except Exception as error:  # whatever an architecture makes of these sizes
        message = f"transformers cannot make this model: {error.__cause__ or error}"
        raise UserError(message, key="model.config", value=fields, code=MODEL) from None
