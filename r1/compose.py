"""What Hydra could not compose, in a user's words: which override, what is allowed, and the nearest valid name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from r1.errors import UserError, nearest

CONF = Path(__file__).parent.parent / "conf"


def explain(error: Exception, argv: list[str]) -> UserError:
    """Find the override at fault by composing without it, and say what could stand in its place."""
    text = _message(error)
    overrides = [arg for arg in argv if "=" in arg or arg.startswith("~")]
    for override in overrides:
        reason = _reason([override])
        if reason is not None and _reason([o for o in overrides if o != override]) is None:
            return _explain_one(override, reason)
    for override in overrides:
        reason = _reason([override])
        if reason is not None:
            return _explain_one(override, reason)
    return UserError("the config cannot be composed", do=text)


def _reason(overrides: list[str]) -> str | None:
    """Why these overrides do not compose, or None if they do."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            OmegaConf.to_container(compose("config", overrides=overrides), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        return _message(error)
    finally:
        GlobalHydra.instance().clear()
    return None


def _message(error: BaseException) -> str:
    parts = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        parts.append(str(error))
    return "\n".join(parts)


def _explain_one(override: str, reason: str) -> UserError:
    key, _, value = override.partition("=")
    key = key.lstrip("+~").partition("@")[0]
    if (CONF / key).is_dir():
        options = options_of(key)
        return UserError(
            f"`{key}` has no option `{value}`", where=key, given=value, allowed=options, do=nearest(value, options)
        )
    if "Error parsing override" in reason or "mismatched input" in reason or "no viable" in reason:
        return UserError("this override cannot be read", given=override, do="write key=value; quote special characters")
    if "Key '" in reason or "not in struct" in reason or "No match in the defaults list" in reason:
        known = known_keys(key)
        return UserError(
            f"unknown key `{key}`: nothing reads it", where=key, given=value, allowed=known, do=_nearest_key(key, known)
        )
    return UserError("this override does not compose", where=key, given=override, do=reason.splitlines()[0])


def options_of(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml") if not p.stem.startswith("_"))


def groups() -> list[str]:
    return sorted(p.relative_to(CONF).as_posix() for p in CONF.rglob("*") if p.is_dir())


def known_keys(key: str) -> list[str]:
    """The keys that stand beside ``key`` in the default config: siblings under the deepest parent that exists."""
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        node: Any = OmegaConf.to_container(compose("config"), resolve=False)
    GlobalHydra.instance().clear()
    prefix = ""
    for part in key.split(".")[:-1]:
        if not isinstance(node, dict) or part not in node:
            break
        node, prefix = node[part], f"{prefix}{part}."
    names = [f"{prefix}{name}" for name in node if not str(name).startswith("_")] if isinstance(node, dict) else []
    return names if prefix else sorted({*names, *groups()})


def _nearest_key(key: str, known: list[str]) -> str:
    depth = len(re.findall(r"\.", known[0])) if known else 0
    return nearest(".".join(key.split(".")[: depth + 1]), known)
