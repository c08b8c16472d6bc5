"""Questions of the policy's own: where its template lets one begin and end, and which are taken."""

from __future__ import annotations

from typing import Any

import pytest
from templates import chat
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from r1.core.model_paths import resolve_model_path
from r1.data.arithmetic import row_from_sum
from r1.data.base import Data
from r1.data.split import is_held_out
from r1.data.template.base import around_question
from r1.data.template.r1_zero import R1Zero
from r1.data.verifier.exact import exact
from r1.rollout.base import Rollout
from r1.stage.distillation.question_generation import REASONS, QuestionFilter, QuestionPrompt

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT = chat()


@pytest.fixture(scope="module")
def tiny() -> Any:
    return AutoTokenizer.from_pretrained(resolve_model_path("r1:tiny"))


@pytest.fixture(scope="module")
def chatml() -> PreTrainedTokenizerFast:
    """Bytes, and a token that is a question mark with the line break behind it, as Qwen's has."""
    names = ["<|im_start|>", "<|im_end|>", "?Ċ", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(names)}, merges=[("?", "Ċ")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(names[:2])
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>")
    made.chat_template = CHATML
    return made


def data(template: Any = CHAT, **more: Any) -> Data:
    return Data(train=[], val=[{"prompt": "1+2+3=?", "answer": "6"}], template=template, verifier=exact, **more)


def extracted(prompt: QuestionPrompt, text: str, truncated: bool = False) -> str | None:
    ids = prompt.tokenizer(text, add_special_tokens=False).input_ids
    return prompt.question(Rollout(prompt.prompt_ids, ids, [0.0] * len(ids), truncated))


# ---- the prompt ----


def test_around_question_returns_template_before_and_behind() -> None:
    zero = R1Zero(text="Q {prompt}. A:", prefill="<think>")
    names = AutoTokenizer.from_pretrained(resolve_model_path("r1:tiny"))
    assert around_question(CHAT, names) == ("User: ", "\nAssistant:")
    assert around_question(zero, names) == ("Q ", ". A:<think>")


def test_question_prompt_omits_trailing_space(tiny: Any) -> None:
    """The tokenizer puts it into the question's first token: " 3" is one."""
    prompt = QuestionPrompt(data(), tiny, single_line=True)
    assert tiny.decode(prompt.prompt_ids) == "User:"
    assert prompt.prompt_ids == tiny("User: 3+5=?").input_ids[: len(prompt.prompt_ids)]


def test_single_line_question_ends_at_line_break(tiny: Any) -> None:
    prompt = QuestionPrompt(data(), tiny, single_line=True)
    assert prompt.stop_ids == {tiny.pad_token_id, tiny.eos_token_id, *tiny("\n").input_ids}
    assert extracted(prompt, " 3+5=?\n") == "3+5=?"
    assert extracted(prompt, " 3+5=?<|eos|>") == "3+5=?"
    assert extracted(prompt, " 3+5=?\nAssistant: 8\n", truncated=True) == "3+5=?"
    assert extracted(prompt, " 3+5", truncated=True) is None


def test_chat_question_ends_at_end_of_turn_token(chatml: Any) -> None:
    prompt = QuestionPrompt(data(chat(system="Be kind.")), chatml, single_line=False)
    start = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    assert chatml.decode(prompt.prompt_ids) == start
    assert prompt.stop_ids == {0, 1}
    assert extracted(prompt, "Two lines:\n3+5=?<|im_end|>") == "Two lines:\n3+5=?"
    assert extracted(prompt, "Two lines:\n3+5=?\n", truncated=True) is None


def test_stop_ids_include_tokens_that_contain_line_break(chatml: Any) -> None:
    prompt = QuestionPrompt(data(), chatml, single_line=True)
    assert {chatml.decode([i]) for i in prompt.stop_ids - {0, 1}} == {"\n", "?\n"}
    assert extracted(prompt, "How?\n") == "How?"


def test_question_ends_at_template_text_behind_it(tiny: Any) -> None:
    prompt = QuestionPrompt(data(R1Zero(text="Q {prompt}. A:", prefill="")), tiny, single_line=False)
    assert extracted(prompt, "1. Add\n2. Go. A: 3", truncated=True) == "1. Add\n2. Go"


def test_template_without_text_behind_question_needs_end_token(tiny: Any) -> None:
    prompt = QuestionPrompt(data(R1Zero(text="Q {prompt}", prefill="")), tiny, single_line=False)
    assert extracted(prompt, " 3+5=?<|eos|>") == "3+5=?"
    assert extracted(prompt, " 3+5=?", truncated=True) is None


# ---- the question filter ----


def test_question_filter_counts_every_reason() -> None:
    """Held out are what ``val`` holds, and what a question itself says."""
    accepted = QuestionFilter(data(row_from_question=row_from_sum, is_held_out=is_held_out), min_length=5)
    held = next(q for q in (f"{a}+{b}=?" for a in range(9) for b in range(9)) if is_held_out(q))
    new = [q for q in (f"{a}+7+7=?" for a in range(1, 9)) if not is_held_out(q)]
    for question in [None, "1+=?", "one and two?", "1+2+3=?", held, new[0], new[0], new[1], f"{new[1]} "]:
        accepted.add(question)
    assert [row["prompt"] for row in accepted.rows] == new[:2]
    assert set(accepted.counts) == {"written", *REASONS}
    assert accepted.counts["written"] == 9 == len(accepted.rows) + sum(accepted.counts[reason] for reason in REASONS)
    assert [accepted.counts[reason] for reason in REASONS] == [1, 1, 2, 2, 1]


def test_accepted_row_has_dataset_answer_without_completion() -> None:
    accepted = QuestionFilter(data(row_from_question=row_from_sum), min_length=1)
    accepted.add("4+4+4=?")
    assert accepted.rows == [{"prompt": "4+4+4=?", "answer": "12"}]


def test_question_filter_ignores_case_and_spaces() -> None:
    """Neither case nor spaces make a question new, or another than a held-out one."""
    accepted = QuestionFilter(data(), min_length=3)
    for question in ["Why  is that?", "why is That?", " 1+2+3=?", "Who?", ""]:
        accepted.add(question)
    assert accepted.rows == [{"prompt": "Why  is that?"}, {"prompt": "Who?"}]
    assert [accepted.counts[reason] for reason in REASONS] == [0, 1, 0, 1, 1]
