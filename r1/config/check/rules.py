"""Rules between the keys of a config, and between a config and this machine; no data or tokenizer is read."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from r1.config.check.callbacks import callbacks
from r1.config.check.devices import check_devices
from r1.config.check.disk_space import disk_space
from r1.config.check.resume_from import resume_from
from r1.config.check.schema import resolve
from r1.config.check.sources import check_architecture, check_hub_datasets, check_model_paths
from r1.core import budget
from r1.core.batch import BatchPlan
from r1.core.errors import LOCKED, STORAGE, UserError, UserErrors, as_yaml_null
from r1.core.files import is_locked
from r1.core.provenance import PIPELINE_KEYS
from r1.core.rank_info import RankInfo, rank_info_from_env
from r1.core.runs import check_output_dir, made_progress
from r1.core.types import Config
from r1.logger.base import RunLogger
from r1.rollout.base import NEUTRAL, Engine
from r1.stage.advantage.base import AdvantageFunction
from r1.stage.base import Stage
from r1.stage.eval import Eval
from r1.stage.loss.base import ClippedLoss
from r1.stage.optimizer.adamw import adamw
from r1.strategy.base import Strategy, resolve_precision

MAX_SEQUENCES = 10**7  # per optimizer step


def check_rules(cfg: Config) -> None:
    """``cfg`` has passed ``check.check_schema``.

    Raises:
        UserErrors: every rule that is broken.
    """
    errors: list[UserError] = []
    for rule in RULES:
        try:
            rule(cfg)
        except UserError as error:
            errors.append(error)
    if errors:
        raise UserErrors(errors)


def no_pipeline(cfg: Config) -> None:
    """A run is one step of a pipeline; it would ignore the keys that only pipelines read."""
    if cfg["steps"] is not None:
        message = "this is a pipeline's config, and its steps are runs of their own"
        raise UserError(message, key="steps", value=list(cfg["steps"]), hint="take the record of one step")
    defaults: Config = dict.fromkeys(PIPELINE_KEYS) | {"shared": [], "workers": 1}
    for key, default in defaults.items():
        if cfg[key] != default:
            hint = "experiment=NAME of a pipeline, or leave it out"
            raise UserError(f"only a pipeline reads `{key}`", key=key, value=as_yaml_null(cfg[key]), hint=hint)


def group_size(cfg: Config) -> None:
    """Advantages compare the completions of a group: there must be enough of them, and they must be able to differ."""
    stage = cfg["stage"]
    group_size = stage.get("group_size", 1)
    if "advantage" in stage:
        function = resolve(stage["advantage"]["_target_"], "stage.advantage", cfg["extensions"])
        if isinstance(function, AdvantageFunction) and group_size < function.min_group_size:
            raise UserError(
                f"stage/advantage={function.__name__} compares the completions of a group with each other",
                key="stage.group_size",
                value=group_size,
                expected=f"whole number >= {function.min_group_size}",
            )
    if group_size > 1:
        require_chance(cfg, "greedy rollouts are all alike, so no group has anything to learn from")


def require_chance(cfg: Config, message: str) -> None:
    """Raises: UserError: ``message``, where every token is the likeliest one."""
    for name, value, expected in (("temperature", 0, "number > 0"), ("top_k", 1, "0, or >= 2"), ("min_p", 1, "< 1")):
        if cfg["rollout"].get(name) == value:
            raise UserError(message, key=f"rollout.{name}", value=value, expected=expected)


def exact_logprobs(cfg: Config) -> None:
    """The ratios of RL compare log-probs over all tokens: the sampler must draw from these probabilities."""
    stage = resolve(cfg["stage"]["_target_"], "stage", cfg["extensions"])
    if not (isinstance(stage, type) and issubclass(stage, Stage) and stage.learns_from_rewards):
        return
    for name in ("top_p", "top_k", "min_p", "repetition_penalty"):
        value, off = cfg["rollout"].get(name), NEUTRAL[name]
        if value not in (None, off):
            message = "this stage learns from the ratio of the policy's and the sampler's probabilities over all tokens"
            hint = f"validation may have it: val.sampling.{name}={value:g}"
            raise UserError(message, key=f"rollout.{name}", value=value, expected=f"{off:g} (off)", hint=hint)


def rejection_sampling(cfg: Config) -> None:
    """Rejection sampling needs answers that can differ, and pass rates that can occur."""
    stage = cfg["stage"]
    if "min_pass_rate" not in stage:
        return
    if stage["answers_per_question"] > 1:
        require_chance(cfg, "greedy answers to one question are all alike")
    least, most = stage["min_pass_rate"], stage["max_pass_rate"]
    if least > most:
        message = "no question has such a pass rate"
        raise UserError(
            message, key="stage.min_pass_rate", value=least, expected=f"at most stage.max_pass_rate={most:g}"
        )


def reward_weights(cfg: Config) -> None:
    """A term without influence on the reward still costs the time to compute it."""
    terms = cfg["reward"]["terms"]
    if all(node["weight"] is None for node in terms.values()):
        message = "no reward term has a weight, so there is nothing to learn from"
        hint = f"reward.terms.{next(iter(terms), 'NAME')}.weight=1.0"
        raise UserError(message, key="reward.terms", value=list(terms), hint=hint)
    for name in [name for name, node in terms.items() if node["weight"] == 0]:
        key, message = f"reward.terms.{name}", "a reward term with weight 0 is paid for and never learned from"
        hint = f"{key}.weight=null to log it only, or leave it out with ~{key}"
        raise UserError(message, key=f"{key}.weight", value=0, hint=hint)


def filter_bounds(cfg: Config) -> None:
    """A filter must be able to accept and to reject."""
    for name, node in cfg["stage"].get("filters", {}).items():
        key, low, high = f"stage.filters.{name}", node["min"], node["max"]
        if low is None and high is None:
            raise UserError("a filter without a bound rejects nothing", key=f"{key}.min", hint=f"or ~{key}")
        if low is not None and high is not None and low > high:
            raise UserError("no value lies within these bounds", key=f"{key}.min", value=low, expected=f"<= {high}")


def policy_loss(cfg: Config) -> None:
    """Settings of GRPO that have no effect, or a wrong one, together with others."""
    stage = cfg["stage"]
    if "kl_coef" not in stage:
        return
    dual = stage["clip_dual"]
    if dual is not None and dual <= 1 + stage["clip_high"]:
        message = "the dual clip bounds ratios beyond the upper clip"
        raise UserError(message, key="stage.clip_dual", value=dual, expected=f"number > {1 + stage['clip_high']:g}")
    loss = resolve(stage["loss"]["_target_"], "stage.loss", cfg["extensions"])
    if dual is not None and isinstance(loss, type) and issubclass(loss, ClippedLoss) and not loss.takes_dual_clip:
        cause = "bounds every ratio already" if loss.clips else "clips nothing"
        message = f"{loss.__name__} {cause}: a dual clip would do nothing"
        raise UserError(message, key="stage.clip_dual", value=dual, expected="null")
    if stage["ref_sync_every"] is not None and not stage["kl_coef"] and stage["max_kl"] is None:
        message = "without a KL there is no reference that could move"
        raise UserError(message, key="stage.ref_sync_every", value=stage["ref_sync_every"], hint="set stage.kl_coef")
    steps = stage["steps_per_rollout"] * stage["num_iterations"]
    if stage["ref_sync_every"] is not None and stage["ref_sync_every"] % steps:
        message = "the reference is read once per rollout batch, so it moves between two of them"
        expected = f"multiples of {steps} (stage.steps_per_rollout x stage.num_iterations)"
        raise UserError(message, key="stage.ref_sync_every", value=stage["ref_sync_every"], expected=expected)
    if stage["kl_in"] == "reward" and not stage["kl_coef"]:
        message = "a KL of weight 0 cannot be taken from the reward"
        raise UserError(message, key="stage.kl_in", value="reward", hint="set stage.kl_coef, or stage.kl_in=loss")
    if stage["kl_unbiased"] and (stage["kl_in"] == "reward" or not stage["kl_coef"]):
        message = "without a KL in the loss there is none to weigh by the ratio"
        raise UserError(message, key="stage.kl_unbiased", value=True, hint="stage.kl_in=loss and a stage.kl_coef")


def adaptive_entropy(cfg: Config) -> None:
    """An adapted entropy coefficient starts, and stays, within its bounds."""
    stage = cfg["stage"]
    if stage.get("entropy_target") is None:
        return
    low, high = stage["entropy_coef_min"], stage["entropy_coef_max"]
    if not low < high:
        message = "the entropy coefficient could not be adapted within these bounds"
        raise UserError(message, key="stage.entropy_coef_min", value=low, expected=f"number < {high:g}")
    if not low <= stage["entropy_coef"] <= high:
        message = "the adapted entropy coefficient starts at stage.entropy_coef"
        expected = f"number from {low:g} to {high:g} (stage.entropy_coef_min, stage.entropy_coef_max)"
        raise UserError(message, key="stage.entropy_coef", value=stage["entropy_coef"], expected=expected)


def importance(cfg: Config) -> None:
    """A correction by bounds needs a bound."""
    node = cfg["stage"].get("importance") or {}
    if "outside" in node and node["low"] is None and node["high"] is None:
        message = "without a bound no importance weight is truncated or masked"
        raise UserError(message, key="stage.importance.high", value="null", expected="number >= 1, or a low")


def async_rollouts(cfg: Config) -> None:
    """Sampling ahead needs a stage that samples, prompts known in advance, and a correction for older weights."""
    if not cfg["rollout"].get("async_steps"):
        return
    stage, key = cfg["stage"], "rollout.async_steps"
    if "zero_variance" not in stage:
        raise UserError("this stage does not sample while it trains", key=key, value=1, hint="stage=grpo")
    if stage["zero_variance"] == "resample":
        message = "which prompts are drawn again is known only when the batch is there"
        raise UserError(message, key=key, value=1, hint="zero_variance=drop, or rollout.async_steps=0")
    engine = resolve(cfg["rollout"]["_target_"], "rollout", cfg["extensions"])
    precision = resolve_precision(cfg["trainer"]["precision"], cfg["trainer"]["accelerator"])
    is_float32 = cfg["model"]["dtype"] == "float32" and precision == "32-true"
    exact = isinstance(engine, type) and issubclass(engine, Engine) and engine.logprobs_match_trainer
    if stage["importance"] is None and not (is_float32 and exact):
        cause = "this engine" if is_float32 else "half precision"
        message = f"with {cause} nothing else corrects for a batch of older weights"
        hint = "stage/importance=token, or rollout.async_steps=0"
        raise UserError(message, key="stage.importance", value="null", hint=hint)
    if strategy_class(cfg).sharded:
        message = "sampling ahead needs a full copy of the weights, and the model is sharded"
        raise UserError(message, key=key, value=1, hint="strategy=ddp, or rollout.async_steps=0")


def length_of_training(cfg: Config) -> None:
    """Steps or epochs, and epochs only where the training examples are known before the run."""
    steps, epochs = (cfg["trainer"][name] for name in ("max_steps", "max_epochs"))
    if (steps is None) == (epochs is None):
        message = "a run ends after its steps or after its epochs"
        raise UserError(message, key="trainer.max_steps", value=as_yaml_null(steps), hint="set one of the two")
    if epochs is None:
        return
    if "examples_per_step" not in cfg["stage"]:
        raise UserError("this stage trains nothing", key="trainer.max_epochs", value=epochs, expected="null")
    if "num_questions" in cfg["stage"]:
        message = "the accepted answers are counted only when they are there"
        hint = "set trainer.max_steps, or train on the written answers: stage=sft data=traces"
        raise UserError(message, key="trainer.max_epochs", value=epochs, hint=hint)
    if cfg["budget"] == "tokens":
        message = "with budget=tokens the tokens end the run"
        raise UserError(message, key="trainer.max_epochs", value=epochs, hint="trainer.max_steps=N, an upper bound")


def optimization(cfg: Config) -> None:
    """The schedule's keys have an effect, and the strategy can shard the optimizer."""
    stage = cfg["stage"]
    if "schedule" not in stage:
        return
    schedule, decay_steps = stage["schedule"], stage["decay_steps"]
    if schedule == "constant" and stage["min_lr"]:
        message, hint = "a constant learning rate has no end", "schedule=cosine"
        raise UserError(message, key="stage.min_lr", value=stage["min_lr"], expected="0", hint=hint)
    if (schedule == "wsd") != (decay_steps is not None):
        message = "the steps of the decay belong to schedule=wsd, which needs them"
        raise UserError(message, key="stage.decay_steps", value=as_yaml_null(decay_steps), hint="set both or neither")
    target = stage["optimizer"]["_target_"]
    if strategy_class(cfg).requires_adamw and resolve(target, "stage.optimizer", cfg["extensions"]) is not adamw:
        message = "this strategy shards the state of AdamW only"
        hint = "stage/optimizer=adamw, or strategy=ddp"
        raise UserError(message, key="stage.optimizer", value=target, hint=hint)


def weights(cfg: Config) -> None:
    """Weights in half precision do not learn: at usual learning rates most updates are rounded away."""
    dtype, lora = cfg["model"]["dtype"], cfg["model"].get("lora")
    if dtype == "float32" or not cfg["stage"].get("lr"):
        return
    hint = "model.dtype=float32 trainer.precision=bf16-mixed"
    if strategy_class(cfg).requires_float32:
        message = "this strategy trains weights in float32"
        raise UserError(message, key="model.dtype", value=dtype, expected="float32", hint=hint)
    if lora is not None and lora["modules_to_save"]:
        message, value = f"modules that are trained in full do not learn in {dtype}", lora["modules_to_save"]
        raise UserError(message, key="model.lora.modules_to_save", value=value, hint=hint)
    if lora is None:  # the adapters are float32
        message = f"{dtype} weights do not learn: an update below half the distance of two {dtype} numbers is lost"
        hint = f"{hint} keeps float32 weights and computes in bfloat16"
        raise UserError(message, key="model.dtype", value=dtype, expected="float32", hint=hint)


def validation(cfg: Config) -> None:
    """pass@k and maj@k need k samples, and an evaluation is the validation at the start."""
    stage = resolve(cfg["stage"]["_target_"], "stage", cfg["extensions"])
    if not cfg["val"].get("at_start", True) and isinstance(stage, type) and issubclass(stage, Eval):
        message, hint = "this stage is the validation at the start, and nothing else", "leave it out"
        raise UserError(message, key="val.at_start", value=False, expected="true", hint=hint)
    ks, num_samples = cfg["val"].get("ks", []), cfg["val"].get("num_samples", 1)
    if wrong := [k for k in ks if not 1 <= k <= num_samples]:
        raise UserError(
            f"pass@{wrong[0]} cannot be worked out from {num_samples} samples per prompt",
            key="val.ks",
            value=ks,
            expected=f"whole numbers from 1 to {num_samples} (val.num_samples)",
        )


def batch(cfg: Config) -> None:
    """The batch arithmetic: it raises where the examples do not divide over the devices."""
    stage, trainer = cfg["stage"], cfg["trainer"]
    if not {"examples_per_step", "micro_batch_size"} <= stage.keys():
        return
    num_examples, group_size = stage["examples_per_step"], stage.get("group_size", 1)
    if stage.get("sequences_per_step", num_examples * group_size) != num_examples * group_size:
        return  # the budget's check has said so
    if num_examples * group_size > MAX_SEQUENCES:
        message = f"one optimizer step would have {num_examples * group_size} sequences"
        raise UserError(message, key="stage.examples_per_step", value=num_examples, expected=f"{MAX_SEQUENCES} in all")
    num_devices, max_tokens = trainer["devices"] * trainer["num_nodes"], stage["micro_batch_tokens"]
    BatchPlan(num_examples, group_size, stage["micro_batch_size"], num_devices, micro_batch_tokens=max_tokens)


def mixture_weight(cfg: Config) -> None:
    """A weight is a share of a mixture."""
    if (weight := cfg["data"].get("weight")) is not None:
        hint = "data=mixture +data@data.parts.NAME=OPTION data.parts.NAME.weight=..."
        raise UserError("one dataset has no share in anything", key="data.weight", value=weight, hint=hint)


def strategy_class(cfg: Config) -> type[Strategy]:
    """The class of ``trainer.strategy``; the base class for a user's factory function, whose class is not known."""
    target = resolve(cfg["trainer"]["strategy"]["_target_"], "trainer.strategy", cfg["extensions"])
    return target if isinstance(target, type) and issubclass(target, Strategy) else Strategy


def devices(cfg: Config) -> None:
    trainer = cfg["trainer"]
    multi_device = strategy_class(cfg).multi_device
    check_devices(trainer["accelerator"], trainer["devices"], trainer["num_nodes"], multi_device=multi_device)


def packages(cfg: Config) -> None:
    """Optional packages that the config asks for."""
    logger = resolve(cfg["logger"]["_target_"], "logger", cfg["extensions"])
    engine = resolve(cfg["rollout"]["_target_"], "rollout", cfg["extensions"])
    if isinstance(engine, type) and issubclass(engine, Engine):
        engine.check_package()
    packages: list[tuple[str, str, str]] = []
    if package := strategy_class(cfg).package:
        packages.append((package, "strategy", f"pip install -e '.[{package}]'"))
    if isinstance(logger, type) and issubclass(logger, RunLogger) and logger.extra:
        packages.append((logger.extra, "logger", f"pip install -e '.[{logger.extra}]'"))
    if cfg["model"].get("lora") is not None:
        packages.append(("peft", "model.lora", "pip install -e '.[peft]'"))
    if cfg["model"].get("attn_implementation") == "flash_attention_2":
        packages.append(("flash_attn", "model.attn_implementation", "model.attn_implementation=null"))
    for package, key, hint in packages:
        if find_spec(package) is None:
            raise UserError(f"this config needs the package `{package}`, which is not installed", key=key, hint=hint)


def output(cfg: Config) -> None:
    """Whether the record's folder can be written, without writing anything."""
    value, name = cfg["output_dir"], cfg["name"]
    if name is not None and (".." in Path(name).parts or Path(name).is_absolute()):
        raise UserError("a run's name must stay inside outputs/", key="name", value=name, hint="output_dir=FOLDER")
    if cfg["resume"] and value is None:
        message = "resume=auto continues the run in output_dir, which is not set"
        raise UserError(message, key="resume", value=cfg["resume"], hint="output_dir=FOLDER resume=auto")
    if value is not None and value.startswith("~"):
        raise UserError("r1 does not expand ~", key="output_dir", value=value, hint="write the whole path")
    folder = Path(value or Path("outputs", name or "run")).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is a file, and a run needs a folder", key="output_dir", value=value, code=STORAGE)
    if not os.access(existing, os.W_OK | os.X_OK):
        hint = "take another output_dir, or change the folder's permissions"
        raise UserError(f"{existing} cannot be written", key="output_dir", value=value, hint=hint, code=STORAGE)
    is_rank_zero = (rank_info_from_env() or RankInfo()).rank == 0
    if value is not None and is_rank_zero:  # on the other ranks the folder may hold what rank zero has just created
        _check_run(folder, value, bool(cfg["resume"]))


def _check_run(folder: Path, value: str, resume: bool) -> None:
    """The folder must be empty, or hold a run that no other process is writing.

    The run is to be resumed, or has failed before its first step: the corrected command starts again in its folder.
    """
    if is_locked(folder):
        message = "another process is writing this run"
        raise UserError(message, key="output_dir", value=value, hint="wait for it", code=LOCKED)
    check_output_dir(folder, value)
    if not resume and made_progress(folder):
        hint = "take another output_dir, or continue this run with resume=auto"
        raise UserError("this folder already holds a run", key="output_dir", value=value, hint=hint)


RULES = (
    no_pipeline,
    group_size,
    exact_logprobs,
    rejection_sampling,
    reward_weights,
    filter_bounds,
    policy_loss,
    adaptive_entropy,
    importance,
    async_rollouts,
    length_of_training,
    optimization,
    weights,
    resume_from,
    callbacks,
    validation,
    mixture_weight,
    devices,
    budget.check_budget,
    batch,
    packages,
    check_model_paths,
    check_architecture,
    check_hub_datasets,
    output,
    disk_space,
)
