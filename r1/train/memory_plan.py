"""The memory of a run's largest micro-batch, for its plan."""

from __future__ import annotations

import torch

from r1.config.build import Experiment
from r1.config.check.rules import strategy_class
from r1.core.types import Config
from r1.model.memory import MemoryEstimate, estimate_memory
from r1.model.recipe import architecture_of, num_adapter_parameters
from r1.model.tokens import tokenize
from r1.stage.training.base import TrainingStage
from r1.strategy.base import resolve_precision


def plan_memory(cfg: Config, experiment: Experiment) -> MemoryEstimate | None:
    """Bytes per device, if all of a micro-batch's sequences are as long as they may be; None: not known."""
    stage, model = experiment.stage, cfg["model"]
    architecture = architecture_of(model)
    if architecture is None or not isinstance(stage, TrainingStage):
        return None
    lora, on_gpu = model.get("lora"), cfg["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available()
    precision = resolve_precision(cfg["trainer"]["precision"], cfg["trainer"]["accelerator"])
    return estimate_memory(
        architecture,
        num_tokens=stage.plan.micro_batch_tokens or (stage.plan.micro_batch_size or 1) * longest_sequence(experiment),
        dtype=model["dtype"],
        autocast=precision != "32-true",
        checkpointing=model["gradient_checkpointing"],
        num_shards=stage.plan.num_devices if strategy_class(cfg).sharded else 1,
        adapter_parameters=num_adapter_parameters(model) if lora else None,
        reference=bool(cfg["stage"].get("kl_coef")) and not lora,
        tile=2**27 if on_gpu else 2**21,
    )


def longest_sequence(experiment: Experiment) -> int:
    """Tokens of the longest example, or of the longest prompt with a completion as long as it may be."""
    stage, data = experiment.stage, experiment.data
    row = data.train[int(data.train.stats("size").argmax())]
    texts = stage.full_texts(row, stage.required_columns)
    room = 0 if texts else experiment.engine.max_completion_length
    texts = texts or [data.prompt_text(stage.tokenizer, row)]
    return room + max(len(tokenize(stage.tokenizer, text)) for text in texts)
