"""r1's SFT steps: stage=sft with its defaults, whole rows learned."""

from __future__ import annotations

from pairs import Job, started

from peers.r1_run import run
from r1.stage.base import Stage


def overrides(job: Job) -> list[str]:
    return [
        "stage=sft",
        "stage.lr=1e-4",
        "stage.loss_on_prompt=true",
        f"stage.examples_per_step={job.sequences}",
    ]


def figures(stage: Stage, step: int) -> dict[str, float]:
    """One character is one token, and every row has a closing one."""
    rows = [stage.data.train[i] for i in stage.step_indices(step)]
    return {"tokens": sum(len(row["prompt"]) + len(row["completion"]) + 1 for row in rows)}


def main() -> None:
    job, gate = started()
    run(job, gate, overrides(job), figures)


if __name__ == "__main__":
    main()
