"""python -m r1.serve MODEL: a vLLM server for rollout=vllm_server; what else is said goes to vLLM as it stands."""

from __future__ import annotations

import argparse
import os
import sys

from r1.core.errors import UserError

SETTINGS = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}  # the first opens the way for weights


def arguments(words: list[str]) -> list[str]:
    """The command line of vLLM's own server."""
    from r1.model.loading import resolve_model_path
    from r1.rollout.serving.vllm_worker import EXTENSION

    parser = argparse.ArgumentParser(prog="python -m r1.serve", description=__doc__)
    parser.add_argument("model", help="a model's folder, a run's, a hub id, or r1:<name>; its weights are not read")
    parser.add_argument("--host", default="127.0.0.1", help="whoever reaches it may change the weights (this machine)")
    parser.add_argument("--port", type=int, default=8000)
    known, others = parser.parse_known_args(words)
    fixed = {
        "model": resolve_model_path(known.model),
        "host": known.host,
        "port": known.port,
        "load-format": "dummy",  # r1 sends the weights: whatever does not arrive is seen at once
        "worker-extension-cls": EXTENSION,
        "logprobs-mode": "processed_logprobs",
        "generation-config": "vllm",
    }
    told = [word for name, value in fixed.items() for word in (f"--{name}", str(value))]
    return ["-m", "vllm.entrypoints.openai.api_server", *told, "--tokens-only", "--enable-prefix-caching", *others]


def main() -> None:
    from r1.rollout.vllm import check_package

    try:
        check_package()
        words = arguments(sys.argv[1:])
    except UserError as error:
        print(f"r1: {error}", file=sys.stderr)
        sys.exit(error.code)
    os.execve(sys.executable, [sys.executable, *words], SETTINGS | dict(os.environ))


if __name__ == "__main__":
    main()
