"""The models and datasets that a config names: whether they exist, and whether a config of random weights is valid."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1.config.build import iter_nodes
from r1.core.errors import DATA, MODEL, UserError, as_yaml_null, suggest
from r1.core.model_paths import has_tokenizer, resolve_model_path, split_adapters
from r1.core.types import Config
from r1.data.files import FORMATS, format_of
from r1.model.folder import FORMAT, check_adapters, check_model_folder


def check_model_paths(cfg: Config) -> None:
    """Check model folders before the hub is queried: a misspelt folder looks like a hub id."""
    for key, node in iter_nodes(cfg):
        takes_models = node["_target_"].startswith("r1.") and not key.startswith("data")
        for name in ("path", "tokenizer") if takes_models else ():
            if isinstance(path := node.get(name), str):
                base_path = node.get("base_path") if name == "path" else None
                _check_model(path, base_path, f"{key}.{name}", name == "path", node.get("tokenizer") is None)


def _check_model(path: str, base_path: str | None, key: str, needs_weights: bool, needs_tokenizer: bool) -> None:
    """Check a model's folder, or an adapter's with its base."""
    base_key = f"{key.rpartition('.')[0]}.base_path"
    with _errors_at(key):
        base, adapters = split_adapters(path, base_path)
    if base_path and not adapters:
        message, hint = f"a base belongs to an adapter, and {path} is none", f"leave out {base_key}"
        raise UserError(message, key=base_key, value=base_path, hint=hint, code=MODEL)
    if not adapters:
        _check_folder(path, key, needs_weights, needs_tokenizer)
        return
    needs_tokenizer = needs_tokenizer and not any(map(has_tokenizer, adapters))
    try:
        _check_folder(base, base_key if base_path else key, needs_weights, needs_tokenizer)
    except UserError as error:
        error.message, error.value = f"the adapter's base, {base}: {error.message}", base_path or path
        raise
    if needs_weights:
        with _errors_at(key):
            check_adapters(base, adapters)


@contextmanager
def _errors_at(key: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        error.key = key
        raise


def _check_folder(path: str, key: str, needs_weights: bool, needs_tokenizer: bool) -> None:
    def model_error(message: str, expected: str, hint: str) -> UserError:
        return UserError(message, key=key, value=path, expected=expected, hint=hint, code=MODEL)

    try:
        folder = Path(resolve_model_path(path))
    except UserError as error:
        raise model_error(error.message, error.expected, suggest(path, error.expected.split(", "))) from None
    if not folder.exists() and (path.startswith(("/", ".", "~")) or path.count("/") > 1):
        expected = "a folder in the transformers format, a run's folder, a hub id (owner/name), or r1:<name>"
        hint = "write the whole path: ~ is not expanded" if path.startswith("~") else f"looked in {folder.absolute()}"
        raise model_error("there is no such folder", expected, hint)
    if not folder.exists():
        _check_hub(path, key, "config.json" if needs_weights else "tokenizer_config.json")
    if folder.is_file():
        raise model_error("this is a file, and a model is a folder", f"a folder with {FORMAT}", f"take {folder.parent}")
    if folder.is_dir() and needs_weights and not path.startswith("r1:"):  # those are shipped, and tested
        with _errors_at(key):
            check_model_folder(folder, path, needs_tokenizer)


def check_hub_datasets(cfg: Config) -> None:
    """Check that datasets exist on the hub before one is downloaded; a local path is checked by its loader."""
    for key, node in iter_nodes({"data": cfg["data"]}):
        path, is_read = str(node.get("path")), "train_split" in node and not node["_target_"].endswith(".traces")
        is_remote = is_read and not Path(path).expanduser().exists() and format_of(path) not in FORMATS
        if is_remote and re.fullmatch(r"[\w.-]+/[\w.-]+", path):
            _check_dataset(path, f"{key}.path")


def _check_dataset(path: str, key: str) -> None:
    from datasets import config
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    owner, dataset = path.split("/")
    copies = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=path, repo_type="dataset"), "snapshots")
    if (
        not copies.is_dir()
        and not Path(config.HF_DATASETS_CACHE, f"{owner}___{camelcase_to_snakecase(dataset)}").exists()
    ):
        _check_hub(path, key, "README.md", kind="dataset", code=DATA)


def _check_hub(path: str, key: str, file: str, kind: str = "model", code: int = MODEL) -> None:
    """Send one request to the hub, unless ``file`` is in the local cache; loading would send a dozen."""
    from huggingface_hub import HfApi, errors, try_to_load_from_cache

    address = f"huggingface.co/{'datasets/' if kind == 'dataset' else ''}{path}"
    try:
        if not isinstance(try_to_load_from_cache(path, file, repo_type=kind), str):
            HfApi().repo_info(path, repo_type=kind, timeout=10)
        return
    except (errors.HFValidationError, errors.RepositoryNotFoundError):
        message = f"there is no such folder, and no such {kind} on the hub (or it needs `hf auth login`)"
    except Exception as error:  # no network, a proxy, a mirror: the client raises many kinds
        message = f"there is no such folder, and the hub cannot be reached: {type(error).__name__}"
    hint = f"looked in {Path(path).absolute()} and at {address}"
    raise UserError(message, key=key, value=path, hint=hint, code=code)


def check_architecture(cfg: Config) -> None:
    """Check that the fields of a model with random weights belong to its architecture and fit each other."""
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
        key = f"model.config.{name}"
        message = f"unknown key `{key}`: a {kind} model does not read it"
        hint = suggest(name, known, "model.config.")
        raise UserError(message, key=key, value=as_yaml_null(fields[name]), expected=known, hint=hint)
    for name in [name for name in fields if name.startswith("num_") or name.endswith("_size")]:
        if isinstance(fields[name], int) and fields[name] < 1:
            key = f"model.config.{name}"
            raise UserError(f"wrong value for `{key}`", key=key, value=fields[name], expected="whole number >= 1")
    config = _create(lambda: AutoConfig.for_model(**fields), fields)
    heads, groups = getattr(config, "num_attention_heads", 1), getattr(config, "num_key_value_heads", None) or 1
    if heads % groups:
        message = f"{heads} query heads do not divide over {groups} key/value heads"
        raise UserError(message, key="model.config.num_key_value_heads", value=groups, expected=f"a divisor of {heads}")
    with torch.device("meta"):  # no memory is allocated
        _create(lambda: AutoModelForCausalLM.from_config(config), fields)


def _create(create: Callable[[], Any], fields: Config) -> Any:
    try:
        return create()
    except Exception as error:  # an architecture may raise any error for sizes that do not fit
        message = f"transformers cannot create this model: {error.__cause__ or error}"
        raise UserError(message, key="model.config", value=fields, code=MODEL) from None
