"""r1's SFT steps: stage=sft with its defaults, whole rows learned."""

from __future__ import annotations

from pairs import Job, started

from peers.r1_run import run
from r1.stage.base import Stage
from r1.stage.sft import SftBatch


def overrides(job: Job) -> list[str]:
    return [
        "stage=sft",
        "stage.lr=1e-4",
        "stage.loss_on_prompt=true",
        f"stage.examples_per_step={job.sequences}",
    ]


def figures(stage: Stage, micro_batches: list[SftBatch]) -> dict[str, float]:  # noqa: ARG001
    """Tokens of the model's tokenizer that went through the model, without padding: prompt, completion, closing one."""
    prompts = sum(batch.prompt_lengths[i] for batch in micro_batches for i in batch.prompt_index)
    return {"tokens": prompts + sum(batch.num_tokens for batch in micro_batches)}


def main() -> None:
    job, gate = started()
    run(job, gate, overrides(job), figures)


if __name__ == "__main__":
    main()
