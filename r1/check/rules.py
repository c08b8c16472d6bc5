"""What one key of a config means for another, and for this machine: checked before any data or tokenizer is read."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from r1.batch import BatchPlan
from r1.build import nodes_of
from r1.check.schema import resolve
from r1.errors import DATA, LOCKED, MODEL, STORAGE, UserError, UserErrors, nearest, null
from r1.model import location
from r1.trainer import check_devices

Config = dict[str, Any]
MAX_SEQUENCES = 10**7  # per optimizer step


def check_rules(cfg: Config) -> None:
    """``cfg`` has passed ``check.check_schema``.

    Raises:
        UserErrors: every rule that is broken.
    """
    found: list[UserError] = []
    rules = (group, policy_loss, validation, shares, devices, batch, packages, models, architecture, hub_data, output)
    for rule in rules:
        try:
            rule(cfg)
        except UserError as error:
            found.append(error)
    if found:
        raise UserErrors(found)


def group(cfg: Config) -> None:
    """Advantages compare the completions of a group: there must be some, and they must be able to differ."""
    stage, temperature = cfg["stage"], cfg["rollout"].get("temperature")
    group_size = stage.get("group_size", 1)
    if "advantage" in stage:
        function = resolve(stage["advantage"]["_target_"], "stage.advantage", cfg["extensions"])
        least = getattr(function, "min_group_size", 1)
        if group_size < least:
            raise UserError(
                f"stage/advantage={function.__name__} compares the completions of a group with each other",
                where="stage.group_size",
                given=group_size,
                allowed=f"whole number >= {least}",
            )
    if temperature == 0 and group_size > 1:
        what = "greedy rollouts are all alike, so no group has anything to learn from"
        raise UserError(what, where="rollout.temperature", given=temperature, allowed="number > 0")


def policy_loss(cfg: Config) -> None:
    """Knobs of GRPO that would have no effect, or the wrong one, beside the others."""
    stage = cfg["stage"]
    if "kl_coef" not in stage:
        return
    dual = stage["clip_dual"]
    if dual is not None and dual <= 1 + stage["clip_high"]:
        what = "the dual clip bounds ratios beyond the upper clip"
        raise UserError(what, where="stage.clip_dual", given=dual, allowed=f"number > {1 + stage['clip_high']:g}")
    loss = resolve(stage["loss"]["_target_"], "stage.loss", cfg["extensions"])
    if dual is not None and not getattr(loss, "takes_dual_clip", True):
        what = f"{loss.__name__} bounds every ratio already: a dual clip would do nothing"
        raise UserError(what, where="stage.clip_dual", given=dual, allowed="null")
    if stage["ref_sync_every"] is not None and not stage["kl_coef"] and stage["max_kl"] is None:
        what = "without a KL there is no reference that could move"
        raise UserError(what, where="stage.ref_sync_every", given=stage["ref_sync_every"], do="set stage.kl_coef")
    if stage["kl_in"] == "reward" and not stage["kl_coef"]:
        what = "a KL of weight 0 cannot be taken from the reward"
        raise UserError(what, where="stage.kl_in", given="reward", do="set stage.kl_coef, or stage.kl_in=loss")


def validation(cfg: Config) -> None:
    """pass@k and maj@k need k samples."""
    ks, num_samples = cfg["val"].get("ks", []), cfg["val"].get("num_samples", 1)
    if wrong := [k for k in ks if not 1 <= k <= num_samples]:
        raise UserError(
            f"pass@{wrong[0]} cannot be worked out from {num_samples} samples per prompt",
            where="val.ks",
            given=ks,
            allowed=f"whole numbers from 1 to {num_samples} (val.num_samples)",
        )


def batch(cfg: Config) -> None:
    """The batch arithmetic, which raises if it does not come out even."""
    stage, trainer = cfg["stage"], cfg["trainer"]
    if not {"examples_per_step", "micro_batch_size"} <= stage.keys():
        return
    num_examples, group_size = stage["examples_per_step"], stage.get("group_size", 1)
    if num_examples * group_size > MAX_SEQUENCES:
        what = f"one optimizer step would have {num_examples * group_size} sequences"
        raise UserError(what, where="stage.examples_per_step", given=num_examples, allowed=f"{MAX_SEQUENCES} in all")
    BatchPlan(num_examples, group_size, stage["micro_batch_size"], trainer["devices"] * trainer["num_nodes"])


def shares(cfg: Config) -> None:
    """A weight is a share of a mixture."""
    if (weight := cfg["data"].get("weight")) is not None:
        do = "data=mixture +data@data.parts.NAME=OPTION data.parts.NAME.weight=..."
        raise UserError("one dataset has no share in anything", where="data.weight", given=weight, do=do)


def devices(cfg: Config) -> None:
    names = ("accelerator", "devices", "num_nodes", "strategy")
    check_devices(**{name: cfg["trainer"][name] for name in names})


def packages(cfg: Config) -> None:
    """Optional packages that the config asks for."""
    logger = resolve(cfg["logger"]["_target_"], "logger", cfg["extensions"])
    wanted = []
    if extra := getattr(logger, "extra", None):
        wanted.append((extra, "logger", f"pip install 'r1[{extra}]'"))
    if cfg["model"].get("lora") is not None:
        wanted.append(("peft", "model.lora", "pip install 'r1[peft]'"))
    if cfg["model"].get("attn_implementation") == "flash_attention_2":
        wanted.append(("flash_attn", "model.attn_implementation", "model.attn_implementation=sdpa"))
    for package, where, do in wanted:
        if find_spec(package) is None:
            raise UserError(f"this config needs the package `{package}`, which is not installed", where=where, do=do)


def models(cfg: Config) -> None:
    """Folders of models, before a hub is asked for what looks like a folder."""
    for where, node in nodes_of(cfg):
        for key in ("path", "tokenizer") if not where.startswith("data") else ():
            if isinstance(path := node.get(key), str):
                _check_folder(path, f"{where}.{key}", needs_weights=key == "path")


def _check_folder(path: str, where: str, needs_weights: bool) -> None:
    def wrong(what: str, allowed: str | list[str], do: str) -> UserError:
        return UserError(what, where=where, given=path, allowed=allowed, do=do, code=MODEL)

    try:
        folder = Path(location(path))
    except UserError as error:
        names = error.allowed.split(", ")
        raise wrong(error.what, names, nearest(path, names)) from None
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
        what = f"there is no such folder, and no such {kind} on the hub (or it needs `hf auth login`)"
    except Exception as error:  # no network, a proxy, a mirror: the client raises many kinds
        what = f"there is no such folder, and the hub cannot be asked: {type(error).__name__}"
    do = f"looked in {Path(path).absolute()} and at {address}"
    raise UserError(what, where=where, given=path, do=do, code=code)


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
            where="model.config.model_type",
            given=null(kind),
            allowed="llama, qwen2, qwen3, gemma3_text and all others in transformers",
            do=nearest(str(kind), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        )
    default = AutoConfig.for_model(kind)
    known = sorted(name for name in {*default.to_dict(), *default.attribute_map} if not name.startswith("_"))
    for name in [name for name in fields if name not in known]:
        where = f"model.config.{name}"
        what = f"unknown key `{where}`: a {kind} model does not read it"
        do = nearest(name, known, "model.config.")
        raise UserError(what, where=where, given=null(fields[name]), allowed=known, do=do)
    for name in [name for name in fields if name.startswith("num_") or name.endswith("_size")]:
        if isinstance(fields[name], int) and fields[name] < 1:
            where = f"model.config.{name}"
            raise UserError(f"wrong value for `{where}`", where=where, given=fields[name], allowed="whole number >= 1")
    config = _made(lambda: AutoConfig.for_model(**fields), fields)
    heads, groups = getattr(config, "num_attention_heads", 1), getattr(config, "num_key_value_heads", None) or 1
    if heads % groups:
        what = f"{heads} query heads do not divide over {groups} key/value heads"
        raise UserError(what, where="model.config.num_key_value_heads", given=groups, allowed=f"a divisor of {heads}")
    with torch.device("meta"):
        _made(lambda: AutoModelForCausalLM.from_config(config), fields)


def _made(make: Callable[[], Any], fields: Config) -> Any:
    try:
        return make()
    except Exception as error:  # whatever an architecture makes of these sizes
        what = f"transformers cannot make this model: {error.__cause__ or error}"
        raise UserError(what, where="model.config", given=fields, code=MODEL) from None


def output(cfg: Config) -> None:
    """Whether the record's folder can be written, without writing anything."""
    given, name = cfg["output_dir"], cfg["name"]
    if name is not None and (".." in Path(name).parts or Path(name).is_absolute()):
        raise UserError("a run's name must stay inside outputs/", where="name", given=name, do="output_dir=FOLDER")
    if cfg["resume"] and given is None:
        what = "resume=auto continues the run in output_dir, which is not set"
        raise UserError(what, where="resume", given=cfg["resume"], do="output_dir=FOLDER resume=auto")
    if given is not None and given.startswith("~"):
        raise UserError("r1 does not expand ~", where="output_dir", given=given, do="write the whole path")
    folder = Path(given or Path("outputs", name or "run")).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file, and a run needs a folder", where="output_dir", given=given, code=STORAGE)
    if not os.access(there, os.W_OK | os.X_OK):
        do = "take another output_dir, or change the folder's permissions"
        raise UserError(f"{there} cannot be written", where="output_dir", given=given, do=do, code=STORAGE)
    if given is not None and os.environ.get("LOCAL_RANK", "0") == "0":  # the other ranks find what the first has made
        _check_run(folder, given, bool(cfg["resume"]))


def _check_run(folder: Path, given: str, resume: bool) -> None:
    """The folder must hold no run, or one that is to be resumed and that no other process is writing."""
    if (folder / "manifest.json").exists() and not resume:
        do = "take another output_dir, or continue this run with resume=auto"
        raise UserError("this folder already holds a run", where="output_dir", given=given, do=do)
    if (folder / ".lock").is_file():
        with (folder / ".lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                what = "another process is writing this run"
                raise UserError(what, where="output_dir", given=given, do="wait for it", code=LOCKED) from None
