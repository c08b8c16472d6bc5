"""Names that r1 no longer uses, and their new names.

A record written under the old names is read as if it had the new ones. A command line with an old name gets an error
that suggests the new one. Whoever renames an option, a key, a target or a metric adds a line here.
"""

from __future__ import annotations

from typing import Any

from r1.core.provenance import flatten
from r1.core.types import Config

OPTIONS = {"stage=reject": "stage=rejection_sampling", "data=jsonl": "data=dataset"}
OVERRIDES = {"stage.importance_cap=null": "stage.importance=null"}  # values whose key has another new name
KEYS = {
    "rollout.context": "rollout.max_model_len",
    "rollout.gpu_memory": "rollout.gpu_memory_utilization",
    "rollout.sleep": "rollout.enable_sleep_mode",
    "rollout.cpu_cache_gib": "rollout.cpu_kvcache_space",
}
STAGE_GROUPS: dict[str, tuple[str, dict[str, str]]] = {  # nested group of the stage: its target then, old key: new key
    "optimizer": (
        "r1.stage.optimizer.adamw.adamw",
        {"weight_decay": "weight_decay", "beta1": "beta1", "beta2": "beta2"},
    ),
    "importance": ("r1.stage.importance.token.token", {"importance_cap": "cap"}),  # null: no correction
}
KEYS |= {
    f"stage.{old}": f"stage.{group}.{new}" for group, (_, keys) in STAGE_GROUPS.items() for old, new in keys.items()
}
TARGETS = {
    "r1.model.Model": "r1.model.loading.Model",
    "r1.model.Lora": "r1.model.lora.Lora",
    "r1.model.loading.Lora": "r1.model.lora.Lora",
    "r1.evaluate.Validation": "r1.stage.validation.metrics.Validation",
    "r1.trainer.trainer": "r1.train.trainer.trainer",
    "r1.stage.reject.Reject": "r1.stage.rejection_sampling.RejectionSampling",
    "r1.logger.csv.csv": "r1.logger.csv.Csv",
    "r1.logger.tensorboard.tensorboard": "r1.logger.tensorboard.TensorBoard",
    "r1.logger.wandb.wandb": "r1.logger.wandb.Wandb",
    "r1.data.verifier.math.math": "r1.data.verifier.math.Math",
    "r1.claims.page.page": "examples.claims.page.page",
    "r1.data.jsonl.jsonl": "r1.data.dataset.dataset",
    "r1.data.tiny_corpus.tiny_corpus": "examples.tiny_world.tiny_corpus.tiny_corpus",
}
NEW_SAMPLING_KEYS: Config = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop": []}
NEW_KEYS: dict[str, Config] = {  # target -> keys it did not have once, with the values nearest to what it did
    "r1.data.template.chat.Chat": {"chat_template": None, "chat_template_kwargs": None},
    "r1.data.verifier.math.Math": {"rel_tol": 1e-6, "units": "optional", "brackets": "optional"},
    "r1.model.loading.Model": {"base_path": None, "precision": "32-true", "recipe": None},
    "r1.model.lora.Lora": {"use_rslora": False, "modules_to_save": None},
    "r1.reward.terms.self_judge.SelfJudge": {"chat_template_kwargs": None},
    "r1.rollout.transformers.Transformers": NEW_SAMPLING_KEYS,
    "r1.rollout.vllm.VLLM": NEW_SAMPLING_KEYS,
    "r1.rollout.vllm_server.VLLMServer": NEW_SAMPLING_KEYS,
    "r1.stage.grpo.Grpo": {
        "steps_per_rollout": 1,
        "kl_unbiased": False,
        "entropy_target": None,
        "entropy_coef_delta": 0.005,
        "entropy_coef_min": 0.0,
        "entropy_coef_max": 1.0,
    },
    "r1.stage.distill.Distill": {"mask_history": False},
    "r1.stage.distill_direct.DistillDirect": {"mask_history": False},
    "r1.stage.distill_logits.DistillLogits": {"mask_history": False},
    "r1.stage.sft.Sft": {"mask_history": False},
    "r1.stage.validation.metrics.Validation": {
        "at_start": True,
        "by": [],
        "greedy": False,
        "verifier": None,
        "sampling": None,
    },
    "r1.teacher.openai.OpenAI": {**dict.fromkeys(NEW_SAMPLING_KEYS), "system": None, "extra_body": None},
    "r1.teacher.transformers.Transformers": {"chat_template_kwargs": None, **NEW_SAMPLING_KEYS, "system": None},
    "r1.train.trainer.trainer": {"max_epochs": None, "profiler": None},
}
NEW_TOP_LEVEL_KEYS: Config = {"resume_from": None, "callbacks": {}, "keep_checkpoints": 2}
# of every stage with a learning rate
NEW_TRAINING_KEYS: Config = {"min_lr": 0.0, "decay_steps": None, "micro_batch_tokens": None}
NEW_DATA_KEYS: Config = {  # of every dataset
    "max_prompt_length": None,
    "overlong": "error",
    "instruction": None,
    "keep_questions": True,
    "reader": "strict",
}
DATA_COLUMNS: dict[str, dict[str, str]] = {  # target of a dataset -> r1's column: the key that named the dataset's
    "r1.data.jsonl.jsonl": {
        "prompt": "prompt_column",
        "answer": "answer_column",
        "completion": "completion_column",
    },
    "r1.data.gsm8k.gsm8k": {"prompt": "prompt_column", "solution": "answer_column", "answer": ""},
    "r1.data.math.math": {"prompt": "prompt_column", "solution": "solution_column", "answer": "answer_column"},
    "r1.data.openr1_math.openr1_math": {
        "prompt": "prompt_column",
        "answer": "answer_column",
        "generations": "generations_column",
        "correct": "correct_column",
    },
    "r1.data.traces.traces": {},
}
NEW_DATASET_KEYS: Config = {
    "name": None,
    "revision": None,
    "train_split": "train",
    "val_split": None,
    "val_path": None,
    "limit_train": None,
    "on_bad_row": "error",
    "decontaminate": [],
    "min_pass_rate": None,
    "max_pass_rate": None,
}  # of every dataset with columns
FUNCTIONS_NOW_CLASSES = ("r1.data.verifier.math.math",)  # built once, no longer called with their knobs
METRIC_GROUPS = {"reject": "rejection"}  # the part of a metric's name before the first slash
METRICS = {  # whole names, after their group's
    f"{stage}/{old}": f"{stage}/{new}"
    for stage in ("distill", "rejection")
    for old, new in (("asked", "generated"), ("kept", "selected"))
}


def suggest_renamed(key: str, value: object = None) -> str:
    """``did you mean `stage=rejection_sampling`?`` for a retired key, option or target; empty for any other."""
    name = KEYS.get(key) or OPTIONS.get(f"{key}={value}") or (TARGETS.get(value) if isinstance(value, str) else None)
    return f"did you mean `{name}`?" if name else ""


def upgrade_config(config: Config) -> Config:
    """The config of an older record under today's names; one that is up to date stays equal."""
    upgraded: Config = _upgrade_targets(_map_data_columns(config))
    if "trainer" in upgraded:  # a run's config, not a pipeline's
        upgraded = NEW_TOP_LEVEL_KEYS | upgraded
    if isinstance(stage := upgraded.get("stage"), dict):
        upgraded["stage"] = _group_stage_keys(stage)
    for old, new in KEYS.items():
        group, _, old_key = old.partition(".")
        node, new_key = upgraded.get(group), new.removeprefix(f"{group}.")
        if isinstance(node, dict) and old_key in node:
            upgraded[group] = {new_key if key == old_key else key: value for key, value in node.items()}
    extensions = upgraded.get("extensions") or []
    moved_out = _example_packages(upgraded) - {*extensions}
    return upgraded | {"extensions": [*extensions, *sorted(moved_out)]} if moved_out else upgraded


def upgrade_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """A record's manifest with today's names of metrics and overrides."""
    upgraded = dict(manifest)
    if overrides := manifest.get("overrides"):
        upgraded["overrides"] = [upgrade_override(text) for text in overrides]
    if metrics := manifest.get("metrics"):
        upgraded["metrics"] = {when: upgrade_metrics(estimates) for when, estimates in metrics.items()}
    return upgraded


def upgrade_override(text: str) -> str:
    """An override that a user typed, under today's names."""
    key, equals, value = text.partition("=")
    return OVERRIDES.get(text) or OPTIONS.get(text) or f"{KEYS.get(key, key)}{equals}{value}"


def upgrade_metrics(row: dict[str, Any]) -> dict[str, Any]:
    """Values by metric, under the metrics' names of today."""
    return {_upgrade_metric(name): value for name, value in row.items()}


def _upgrade_metric(name: str) -> str:
    group, slash, rest = name.partition("/")
    name = f"{METRIC_GROUPS.get(group, group)}{slash}{rest}"
    return METRICS.get(name, name)


def _map_data_columns(node: Any) -> Any:
    """A config in which the keys NAME_column of each dataset are the node ``columns``."""
    if not isinstance(node, dict):
        return node
    mapped = {key: _map_data_columns(value) for key, value in node.items()}
    own = DATA_COLUMNS.get(str(node.get("_target_")))
    if own is None or "columns" in node:
        return mapped
    columns = {name: mapped.pop(key, None) for name, key in own.items()}
    if columns.get("completion", "") is None:
        columns["completion"] = "completion"  # the file's, if any
    return NEW_DATASET_KEYS | mapped | {"columns": columns}


def _group_stage_keys(stage: Config) -> Config:
    """The stage's node with the keys that have become a nested group's."""
    grouped = NEW_TRAINING_KEYS | stage if "schedule" in stage else dict(stage)
    for group, (target, keys) in STAGE_GROUPS.items():
        if keys.keys() <= stage.keys():
            moved = {new: grouped.pop(old) for old, new in keys.items()}
            is_off = all(value is None for value in moved.values())
            grouped[group] = None if is_off else {"_target_": target, "_partial_": True} | moved
    return grouped


def _upgrade_targets(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    target = node.get("_target_")
    upgraded = {key: _upgrade_targets(value) for key, value in node.items()}
    if isinstance(target, str) and target in TARGETS:
        upgraded["_target_"] = TARGETS[target]
        if target in FUNCTIONS_NOW_CLASSES:
            upgraded.pop("_partial_", None)
    new = NEW_DATA_KEYS if {"template", "verifier"} <= node.keys() else NEW_KEYS.get(str(upgraded.get("_target_")), {})
    return upgraded | {key: value for key, value in new.items() if key not in upgraded}


def _example_packages(config: Config) -> set[str]:
    """The packages of examples/ that a config takes targets from: those were in r1 once, so no extension named them."""
    targets = [str(value) for key, value in flatten(config).items() if key.endswith("_target_")]
    return {".".join(target.split(".")[:2]) for target in targets if target.startswith("examples.")}
