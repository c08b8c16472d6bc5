"""What both sides train: random models with known completion lengths, prompts, texts, and one cheap reward.

One character is one token. The models are Qwen2 of any size, changed in one way: channel 0 of the residual stream is
set by the embedding to a constant that no layer writes to, and the end-of-sequence token's embedding is nothing but
that channel. Its probability is then the same after any text, so a model either never ends a completion (all have the
limit's length) or ends it with a fixed chance per token (lengths are geometric, long-tailed) on both sides alike,
without a logits processor on either.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD, EOS = "<|endoftext|>", "<|im_end|>"  # as Qwen2's tokenizer names them
EOS_ID = 1
ALPHABET = "0123456789+-*= "
NEVER = 1e-12  # a chance per token


@dataclass(frozen=True)
class Size:
    """A Qwen2 shape: heads of ``width / heads``, half as many for keys and values unless said otherwise."""

    width: int
    layers: int
    vocab: int = 512
    heads: int = 0
    kv_heads: int = 0
    intermediate: int = 0

    def fields(self) -> dict[str, int]:
        heads = self.heads or self.width // 32
        return {
            "vocab_size": self.vocab,
            "hidden_size": self.width,
            "intermediate_size": self.intermediate or 4 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self.kv_heads or heads // 2,
        }


SIZES = {
    "1M": Size(128, 4),
    "6M": Size(256, 6),
    "10M": Size(64, 2, vocab=151_936),
    "0.5B": Size(896, 24, vocab=151_936, heads=14, kv_heads=2, intermediate=4864),
}


@dataclass(frozen=True)
class Workload:
    """One GRPO step: ``prompts`` x ``group`` completions of up to ``limit`` tokens.

    Attributes:
        end: the chance per token that a completion ends.
        size: the model, where the workload is about one; None: the sizes that are asked for.
    """

    what: str
    prompts: int
    group: int
    prompt_tokens: int
    limit: int
    end: float = NEVER
    size: str | None = None


WORKLOADS = {
    "a": Workload("equal lengths", 8, 8, 16, 64),
    "b": Workload("long-tailed lengths, mean about 63", 8, 8, 16, 256, end=1 / 64),
    "c": Workload("long prompts", 4, 16, 256, 64),
    "d": Workload("large vocabulary", 8, 8, 16, 64, size="10M"),
    "g8": Workload("0.5B, groups of 8", 8, 8, 64, 512, size="0.5B"),
    "g16": Workload("0.5B, groups of 16", 8, 16, 64, 512, size="0.5B"),
}


def digits(completions: list[str], **columns: Any) -> list[float]:  # noqa: ARG001
    """The reward of both sides: a tenth for every digit."""
    return [sum(map(str.isdigit, completion)) / 10 for completion in completions]


def save_model(folder: Path, size: Size, end: float, dtype: str) -> Path:
    """Write random weights (seed 0) that end a completion with chance ``end`` per token, and their tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    special = {"bos_token_id": None, "eos_token_id": EOS_ID, "pad_token_id": 0}
    config = AutoConfig.for_model(
        "qwen2", **size.fields(), **special, max_position_embeddings=4096, tie_word_embeddings=True
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        set_end(model, end)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer(size.vocab).save_pretrained(folder)
    return folder


def set_end(model: PreTrainedModel, end: float) -> None:
    """Give the end-of-sequence token the probability ``end`` after any text."""
    import torch

    body, embedding = model.model, model.get_input_embeddings().weight
    embedding[:, 0] = 1.0
    for layer in body.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0
    embedding[EOS_ID] = 0.0
    ids = torch.randint(EOS_ID + 1, len(embedding), (8, 64))
    hidden = body(ids).last_hidden_state
    others = (hidden @ embedding.T).index_fill(-1, torch.tensor([EOS_ID]), -math.inf).logsumexp(-1)
    odds = math.log(end / (1 - end))
    embedding[EOS_ID, 0] = ((others + odds) / hidden[..., 0]).mean()


def tokenizer(vocab: int) -> PreTrainedTokenizerBase:
    """Bytes, then names for the rest of the vocabulary; nothing merges, so one ASCII character is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = [PAD, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"<x{i}>" for i in range(vocab - len(tokens))]
    raw = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=PAD, eos_token=EOS, padding_side="left")


def text(draw: random.Random, length: int) -> str:
    return "".join(draw.choice(ALPHABET) for _ in range(length - 1)) + draw.choice(ALPHABET[:-1])


def save_prompts(file: Path, length: int, count: int = 512) -> Path:
    """Questions of ``length`` tokens, with an answer that nobody looks at."""
    draw = random.Random(0)
    return save_rows(file, [{"prompt": text(draw, length), "answer": "0"} for _ in range(count)])


def save_texts(file: Path, count: int = 2048) -> Path:
    """Rows to learn whole: 20 to 300 tokens, long-tailed, about 80 in the mean; the first 16 are the question."""
    draw = random.Random(0)
    lengths = [min(20 + int(draw.expovariate(1 / 62)), 300) for _ in range(count)]
    rows = [text(draw, length - 1) for length in lengths]  # and the closing token
    return save_rows(file, [{"prompt": row[:16], "completion": row[16:], "answer": "0"} for row in rows])


def save_rows(file: Path, rows: list[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
