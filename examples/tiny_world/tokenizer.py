"""The tiny world's tokenizer: ``python -m examples.tiny_world.tokenizer FOLDER`` writes it, the same bytes every time.

Byte-level BPE, so any text can be written; whole numbers up to 99 are single tokens, with and without a space before
them, and so are the words of the tiny corpus, the R1-Zero template and the four tags.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from r1.data.completion import TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 1024  # an upper limit; merging stops when every word below is one token
NUMBERS = 100
WEIGHT = 20  # repetitions of the training text; only its frequencies matter
WORDS = [
    "User: 1=?\nAssistant:",
    " plus is wait 加 得 等等，。",
    " plus is wait 加 得 等等,.",
    " 加 得 等等",
    "，",
    "。",
    "=?",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}Assistant:{{ m.content }}{{ eos_token }}\n"
    "{% else %}{{ m.role | capitalize }}: {{ m.content }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tokenizer(template_text: str) -> PreTrainedTokenizerFast:
    """Train it on a list of words; ``template_text`` is the R1-Zero template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    numbers = pre_tokenizers.Split(Regex(r" ?\d{1,3}"), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence([numbers, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    raw.decoder = decoders.ByteLevel()
    counted = [text for n in range(NUMBERS) for text in (str(n), f" {n}")]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=2,
        show_progress=False,
        special_tokens=["<|pad|>", "<|eos|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    raw.train_from_iterator([template_text, *WORDS, *counted] * WEIGHT, trainer)
    raw.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|pad|>",
        eos_token="<|eos|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def main() -> None:
    from omegaconf import OmegaConf

    from r1.core.paths import CONF

    text = OmegaConf.load(CONF / "data" / "template" / "r1_zero.yaml").text
    tokenizer(text).save_pretrained(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
