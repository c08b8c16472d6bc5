"""TRL's SFT steps: packed as the job says, the loss over whole rows."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, load_dataset
from pairs import Gate, Job, started
from trl import SFTConfig, SFTTrainer

from peers.trl_run import loaded, settings, train


def texts(job: Job) -> Dataset:
    rows = load_dataset("json", data_files=job.data, cache_dir=f"{job.output}/cache", split="train")
    return rows.map(lambda row: {"text": row["prompt"] + row["completion"]}, remove_columns=rows.column_names)


def counted(compute_loss: Any, gate: Gate) -> Any:
    """TRL's loss, with the tokens that are no padding added to the step's figures."""

    def wrapped(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")
        gate.add(tokens=inputs["input_ids"].numel() if mask is None else int(mask.sum()))
        return compute_loss(model, inputs, *args, **kwargs)

    return wrapped


def main() -> None:
    job, gate = started()
    model, tokenizer = loaded(job)
    packed = job.packing != "none"
    config = SFTConfig(
        **settings(job),
        learning_rate=1e-4,
        per_device_train_batch_size=job.sequences // job.splits,
        gradient_accumulation_steps=job.splits,
        max_length=job.packed_length,
        packing=packed,
        packing_strategy=job.packing if packed else "bfd",
        train_sampling_strategy="random" if packed else "group_by_length",
    )
    trainer = SFTTrainer(model=model, args=config, train_dataset=texts(job), processing_class=tokenizer)
    trainer.compute_loss = counted(trainer.compute_loss, gate)
    train(trainer, gate)


if __name__ == "__main__":
    main()
