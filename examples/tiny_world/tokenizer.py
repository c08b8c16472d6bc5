"""python -m examples.tiny_world.tokenizer FOLDER: train the shipped models' tokenizer, the same bytes every time.

Byte-level BPE, so any text can be written. Whole numbers up to 99 are single tokens, with and without a space before
them, and so are the words of the tiny corpus, the R1-Zero template and the four tags.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from r1.data.completion import TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 1024  # an upper limit: merging stops when every word below is one token
NUMBERS = 100  # 0 to 99
REPETITIONS = 20  # of the training text, of which only the frequencies matter
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


def train_tokenizer(template_text: str) -> PreTrainedTokenizerFast:
    """Train the tokenizer on a list of words.

    Args:
        template_text: the R1-Zero template, whose words become tokens, too.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r" ?\d{1,3}"), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=2,
        show_progress=False,
        special_tokens=["<|pad|>", "<|eos|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # sorted, or the ids would vary
    )
    numbers = [text for n in range(NUMBERS) for text in (str(n), f" {n}")]
    bpe.train_from_iterator([template_text, *WORDS, *numbers] * REPETITIONS, trainer)
    # not special tokens: decoding with skip_special_tokens must leave the tags in the text
    bpe.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|eos|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def main() -> None:
    from omegaconf import OmegaConf

    from r1.core.paths import CONF

    parser = argparse.ArgumentParser(prog="python -m examples.tiny_world.tokenizer", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the tokenizer's files are written")
    template = OmegaConf.load(CONF / "data" / "template" / "r1_zero.yaml")
    train_tokenizer(template.text).save_pretrained(parser.parse_args().folder)


if __name__ == "__main__":
    main()
