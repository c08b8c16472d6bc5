"""r1 serve MODEL: start a vLLM server for rollout=vllm_server; other options are passed on to vLLM."""

from __future__ import annotations

import os
import sys

from r1.core.command import ArgumentParser, run_command

ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}  # the first enables the endpoints for weights


def server_command(argv: list[str]) -> list[str]:
    """The arguments of the Python interpreter that start vLLM's own server."""
    from r1.core.model_paths import split_adapters
    from r1.rollout.serving.vllm_worker import EXTENSION

    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "model", help="a model's folder, an adapter's, a run's, a hub id, or r1:<name>; no weights are read"
    )
    parser.add_argument("--host", default="127.0.0.1", help="any client that reaches it may change the weights")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--base", help="the base of an adapter's folder (default: that of its adapter_config.json)")
    args, vllm_args = parser.parse_known_args(argv)
    fixed = {
        "model": split_adapters(args.model, args.base)[0],  # the architecture; the policy's weights are merged
        "host": args.host,
        "port": args.port,
        "load-format": "dummy",  # random weights: a failed transfer shows at once
        "worker-extension-cls": EXTENSION,
        "logprobs-mode": "processed_logprobs",
        "generation-config": "vllm",
    }
    options = [arg for name, value in fixed.items() for arg in (f"--{name}", str(value))]
    server = ["-m", "vllm.entrypoints.openai.api_server"]
    return [*server, *options, "--tokens-only", "--enable-prefix-caching", *vllm_args]


def main() -> None:
    run_command(_main)


def _main() -> None:
    from r1.rollout.vllm import check_vllm

    check_vllm()
    command = server_command(sys.argv[1:])
    os.execve(sys.executable, [sys.executable, *command], ENVIRONMENT | dict(os.environ))


if __name__ == "__main__":
    main()
