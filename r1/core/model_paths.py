"""Where a model lies: shipped with r1, in a run's folder, in a folder or on the hub, or an adapter beside its base."""

from __future__ import annotations

import json
from pathlib import Path

from r1.core.errors import MODEL, UserError, suggest
from r1.core.paths import ASSETS

ADAPTER_CONFIG = "adapter_config.json"  # of peft's save_pretrained
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
BASE_FIELD = "base_model_name_or_path"


def resolve_model_path(path: str) -> str:
    """``r1:tiny`` -> the shipped folder; a run's folder -> its ``model/``; anything else unchanged."""
    if path.startswith("r1:"):
        folder = ASSETS / path.removeprefix("r1:")
        if not folder.is_dir():
            names = sorted(f"r1:{p.name}" for p in ASSETS.iterdir() if p.is_dir())
            hint = suggest(path, names)
            raise UserError(
                "unknown shipped model", key="model.path", value=path, expected=names, hint=hint, code=MODEL
            )
        return str(folder)
    inside = Path(path) / "model"
    return str(inside) if (inside / "config.json").is_file() else path


def split_adapters(path: str, base_path: str | None = None) -> tuple[str, list[Path]]:
    """The folder or hub id of a model's full weights, and the adapters to merge into them in this order.

    The base of an adapter may be an adapter with a base of its own. No adapter: ``path`` itself, resolved.

    Args:
        base_path: the base of the adapter at ``path``; None: the one in its adapter_config.json.

    Raises:
        UserError: an adapter's base is unknown.
    """
    folder, adapters = resolve_model_path(path), list[Path]()
    while Path(folder, ADAPTER_CONFIG).is_file():
        if Path(folder) in adapters:
            raise _base_error("this adapter is its own base", path, folder)
        adapters.insert(0, Path(folder))
        folder, base_path = resolve_model_path(base_path or adapter_base(Path(folder), path)), None
    return folder, adapters


def adapter_base(folder: Path, path: str) -> str:
    """The base that an adapter was trained on, by its own account.

    Args:
        path: of the model, for an error.

    Raises:
        UserError: adapter_config.json is no JSON object, or names no base.
    """
    try:
        base = json.loads((folder / ADAPTER_CONFIG).read_bytes())[BASE_FIELD]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise _base_error(f"{ADAPTER_CONFIG} of this adapter names no base", path, str(folder))
    return base


def has_tokenizer(folder: Path) -> bool:
    return any(file.name in VOCABULARIES or file.suffix == ".tiktoken" for file in folder.iterdir())


def _base_error(message: str, path: str, folder: str) -> UserError:
    expected, hint = f"{BASE_FIELD}: a model's folder or hub id", f"model.base_path=BASE sets it; looked in {folder}"
    return UserError(message, key="model.path", value=path, expected=expected, hint=hint, code=MODEL)
