"""The tiny world's tokenizer: rebuilt to the byte, lossless, and numbers and tags are single tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from examples.tiny_world.tokenizer import NUMBERS, VOCAB_SIZE, main
from r1.core.paths import ASSETS
from r1.data.arithmetic import IS, PLUS, WAIT
from r1.data.completion import TAGS
from r1.model.export import export
from r1.model.loading import Model

FILES = ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
SHIPPED_TOKENIZERS = sorted(path.parent.name for path in ASSETS.glob("*/tokenizer.json"))


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "tokenizer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["examples.tiny_world.tokenizer", str(folder)])
        main()
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(ASSETS / "tiny")


def test_tiny_model_is_shipped() -> None:
    assert "tiny" in SHIPPED_TOKENIZERS


@pytest.mark.parametrize("name", SHIPPED_TOKENIZERS)
@pytest.mark.parametrize("file", FILES)
def test_shipped_files_equal_the_rebuilt_ones(rebuilt: Path, name: str, file: str) -> None:
    assert (ASSETS / name / file).read_bytes() == (rebuilt / file).read_bytes()


@given(st.text())
def test_decode_inverts_encode_for_any_text(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_decode_keeps_tags_and_skips_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "<think>a</think> <answer>1</answer><|eos|><|pad|> \n</answer"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert "eos" not in tokenizer.decode(ids, skip_special_tokens=True)
    assert tokenizer.decode(ids, skip_special_tokens=True).startswith("<think>a</think>")  # tags are for the reader


@pytest.mark.parametrize(
    "piece",
    [
        *(text for n in range(NUMBERS) for text in (str(n), f" {n}")),
        *TAGS,
        *(f" {words[language]}" for words in (PLUS, IS, WAIT) for language in ("en", "zh")),
        "<|eos|>",
        "<|pad|>",
        "=?",
        "，",
        "。",
    ],
)
def test_numbers_words_and_tags_are_single_tokens(tokenizer: PreTrainedTokenizerBase, piece: str) -> None:
    assert len(tokenizer(piece, add_special_tokens=False).input_ids) == 1


@given(st.lists(st.integers(0, 99), min_size=2, max_size=8))
def test_sum_has_one_token_per_number_and_sign(terms: list[int]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny")
    question = "+".join(map(str, terms)) + "=?"
    assert len(tokenizer(question, add_special_tokens=False).input_ids) == 2 * len(terms)


def test_chat_template_renders_a_conversation(tokenizer: PreTrainedTokenizerBase) -> None:
    talk = [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "1+1=?"},
        {"role": "assistant", "content": "2"},
    ]
    prompt = tokenizer.apply_chat_template(talk[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == "System: Add.\nUser: 1+1=?\nAssistant:"
    assert tokenizer.apply_chat_template(talk, tokenize=False) == prompt + "2<|eos|>\n"


def test_vocabulary_is_small_and_contiguous(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer) <= VOCAB_SIZE
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_exported_tokenizer_gives_the_same_ids(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    source = Model(
        path=None,
        config={"model_type": "llama", **sizes},
        tokenizer="r1:tiny",
        dtype="float32",
        precision="32-true",
        attn_implementation="sdpa",
        gradient_checkpointing=False,
        base_path=None,
        lora=None,
        recipe=None,
    )
    export(source.load(seed=0), source.load_tokenizer(), {1}, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in (
        "User: 3+15+99=?\nAssistant:",
        "<think> 3 plus 15 is 18，加 等等</think>\n<answer>1234</answer>",
        "it's  é\t",
    ):
        assert again(text).input_ids == tokenizer(text).input_ids
