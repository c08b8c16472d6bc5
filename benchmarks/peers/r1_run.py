"""r1's side: a run as ``python -m r1.run`` makes it, with a gate before every optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pairs import Gate, Job

from r1.config.build import build
from r1.config.check.components import check_parts
from r1.config.check.config import check_config
from r1.config.compose import compose_points
from r1.config.overrides import parse_command_line
from r1.core.rank_info import RankInfo
from r1.stage.base import Stage
from r1.train import fit

FOREVER = 1_000_000  # steps; the parent says when to stop


def run(job: Job, gate: Gate, overrides: list[str], figures: Callable[[Stage, list[Any]], dict[str, float]]) -> None:
    """Compose, check, build and fit; ``figures(stage, micro_batches)`` describes a step that has ended."""
    overrides = [*common(job), *overrides, *job.overrides]
    (composed,) = compose_points(*parse_command_line(overrides))
    cfg = composed.config
    check_config(cfg, overrides)
    fit.silence_third_party_logging()
    experiment = build(cfg)
    check_parts(cfg, experiment)
    stage = experiment.stage
    micro_batches = stage.micro_batches

    batches: list[Any] = []

    def gated(step: int) -> list[Any]:
        if step:
            gate.add(**figures(stage, batches))
        gate.arrive()
        batches[:] = micro_batches(step)
        return list(batches)

    stage.micro_batches = gated  # type: ignore[method-assign]
    fit.fit(cfg, experiment, overrides, "benchmark", RankInfo())


def common(job: Job) -> list[str]:
    """The model, the data and the trainer; one held-out row, since validation is not what is measured."""
    return [
        f"model.path='{job.model}'",
        f"model.dtype={'bfloat16' if job.device == 'cuda' else 'float32'}",
        "data=dataset",
        "data/template=r1_zero",
        "data.template.text='{prompt}'",
        f"data.path='{job.data}'",
        "data.num_val=1",
        f"output_dir='{job.output}/run'",
        f"threads={job.threads}",
        f"checkpoint_every={FOREVER}",
        "val.num_prompts=1",
        "val.num_samples=1",
        "val.ks=[1]",
        f"val.every={FOREVER}",
        f"trainer.max_steps={FOREVER}",
        f"trainer.accelerator={job.device}",
        f"rollout.max_completion_length={job.limit}",
        "stage.schedule=constant",
        "stage.warmup_steps=0",
    ]
