"""What r1 adds to a worker of vLLM: to take the policy's weights. It runs where vLLM runs, and needs nothing of r1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SHAPE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")  # what tells two models apart


class Weights:
    """A worker extension (vLLM's ``worker_extension_cls``)."""

    model_runner: Any
    model_config: Any

    def r1_load(self, weights: str | Iterable[tuple[str, Tensor]]) -> None:
        """Take new weights, in the names of a checkpoint; or the safetensors file that holds them."""
        if isinstance(weights, str):
            from safetensors.torch import load_file

            weights = load_file(weights).items()
        self.model_runner.reload_weights(weights_iterator=iter(weights))
        head = getattr(self.model_runner.model, "lm_head", None)
        if hasattr(head, "cpu_linear"):  # packed for oneDNN: a head that is tied to the embeddings is left as it was
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(head, remove_weight=False)

    def r1_about(self) -> dict[str, Any]:
        """What the trainer compares with its own model and expects of the server's settings."""
        config = self.model_config
        shape = {name: getattr(config.hf_text_config, name, None) for name in SHAPE}
        return shape | {"logprobs_mode": config.logprobs_mode, "max_model_len": config.max_model_len}


EXTENSION = f"{Weights.__module__}.{Weights.__qualname__}"
