"""r1's extension of vLLM's workers, which loads the policy's weights. It runs in vLLM's process and needs no r1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURE_FIELDS = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")


class WeightLoader:
    """Mixed into vLLM's worker class (``worker_extension_cls``); callable with ``collective_rpc``."""

    model_runner: Any
    model_config: Any

    def r1_load(self, weights: str | Iterable[tuple[str, Tensor]]) -> None:
        """Load (name, value) pairs under a checkpoint's names, or the safetensors file at a path."""
        if isinstance(weights, str):
            from safetensors.torch import load_file

            weights = load_file(weights).items()
        self.model_runner.reload_weights(weights_iterator=iter(weights))
        head = getattr(self.model_runner.model, "lm_head", None)
        # On a CPU vLLM packs weights for oneDNN when they are loaded, but it misses a head that is tied to the
        # embeddings: without this the head would keep the previous weights.
        if hasattr(head, "cpu_linear"):
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(head, remove_weight=False)

    def r1_about(self) -> dict[str, Any]:
        """The architecture and the settings that the trainer checks."""
        config = self.model_config
        architecture = {name: getattr(config.hf_text_config, name, None) for name in ARCHITECTURE_FIELDS}
        return architecture | {"logprobs_mode": config.logprobs_mode, "max_model_len": config.max_model_len}


EXTENSION = f"{WeightLoader.__module__}.{WeightLoader.__qualname__}"
