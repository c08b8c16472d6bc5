"""What TRL's two workers share: quiet settings, the model and the gate before every optimizer step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pairs import Gate, Job
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

FOREVER = 1_000_000  # steps; the parent says when to stop


def loaded(job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dtype = torch.bfloat16 if job.device == "cuda" else torch.float32
    return AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype), AutoTokenizer.from_pretrained(job.model)


def settings(job: Job) -> dict[str, Any]:
    """Nothing written, nothing logged, no recomputation, and otherwise what r1 does: AdamW, clipping at 1."""
    return {
        "output_dir": str(Path(job.output) / "run"),
        "use_cpu": job.device == "cpu",
        "bf16": job.device == "cuda",
        "fp16": False,
        "gradient_checkpointing": False,
        "max_steps": FOREVER,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "adam_beta2": 0.95,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }


class AtGate(TrainerCallback):
    """Waits before every step."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.gate.arrive()


def train(trainer: Any, gate: Gate) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(AtGate(gate))
    trainer.train()
