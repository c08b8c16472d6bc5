"""r1's GRPO steps: stage=grpo with its defaults, the job's batch, and the shared reward."""

from __future__ import annotations

from typing import Any

from pairs import Job, started

from peers.r1_run import run
from r1.stage.base import Stage


def overrides(job: Job) -> list[str]:
    adapters = ["+model/lora=default", f"model.lora.r={job.lora}", f"model.lora.alpha={2 * job.lora}"]
    return [
        "stage=grpo",
        "stage.lr=1e-7",  # completion lengths must not drift
        f"stage.group_size={job.group}",
        f"stage.examples_per_step={job.sequences // job.group}",
        "~reward.terms.accuracy",
        "~reward.terms.format",
        "extensions=[workloads]",
        "+reward.terms.digits={_target_: workloads.digits, weight: 1.0}",
        *(adapters if job.lora else []),
    ]


def main() -> None:
    job, gate = started()

    def figures(stage: Stage, micro_batches: list[Any]) -> dict[str, float]:  # noqa: ARG001
        metrics = stage.trainer.callback_metrics
        return {
            "tokens": round(float(metrics["train/completion_length"]) * job.sequences),
            "rollout": float(metrics["time/rollout"]),
            "score": float(metrics["time/score"]),
        }

    run(job, gate, overrides(job), figures)


if __name__ == "__main__":
    main()
