"""TRL's GRPO steps, at the settings that are fastest for it: no reference, no recomputation, nothing logged."""

from __future__ import annotations

from typing import Any

from datasets import load_dataset
from pairs import Gate, started
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer
from workloads import digits

from peers.trl_run import loaded, settings, train


def counted(generate: Any, gate: Gate) -> Any:
    """TRL's generation, with the completions' tokens added to the step's figures."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        found = generate(*args, **kwargs)
        gate.add(tokens=sum(map(len, found[0])))
        return found

    return wrapped


def main() -> None:
    job, gate = started()
    model, tokenizer = loaded(job)
    config = GRPOConfig(
        **settings(job),
        learning_rate=1e-7,  # completion lengths must not drift
        per_device_train_batch_size=job.sequences // job.splits,
        gradient_accumulation_steps=job.splits,
        num_generations=job.group,
        max_completion_length=job.limit,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        beta=0.0,
        num_iterations=1,
        loss_type="dapo",
        scale_rewards="group",
        cache_implementation=None if job.cache == "dynamic" else job.cache,
    )
    adapters = LoraConfig(r=job.lora, lora_alpha=2 * job.lora, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = load_dataset("json", data_files=job.data, cache_dir=f"{job.output}/cache", split="train")
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=digits,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=adapters if job.lora else None,
    )
    trainer._generate_single_turn = gate.timed("rollout", counted(trainer._generate_single_turn, gate))
    trainer._calculate_rewards = gate.timed("score", trainer._calculate_rewards)
    train(trainer, gate)


if __name__ == "__main__":
    main()
