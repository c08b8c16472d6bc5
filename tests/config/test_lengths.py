"""Rows that are too long for the model: every row is measured, in tokens; the error, what is left out, what is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from templates import SPECIALS, TOKENIZERS, tokenizer_of

from r1.config.build import Experiment, build
from r1.config.check.components import check_parts
from r1.config.check.config import check_schema
from r1.config.row_bounds import RowBounds
from r1.core.errors import UserError
from r1.core.types import Config
from r1.data.base import Row
from r1.model import chat
from r1.model.tokens import lengths_over, max_tokens, tokenize
from r1.run import execute

SHORT = [{"prompt": f"How many is {i}? " + "a plus b is " * 25, "answer": str(i)} for i in range(320)]
EMOJI = {"prompt": "\U0001f9ee\U0001f3b2" * 140, "answer": "7"}  # 280 characters, 1,120 bytes, a token each
Run = Callable[..., Experiment]


@pytest.fixture
def prepare(config: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """``prepare(rows, "stage=grpo", ...)``: the config of a small run on a file with these rows; 8 are held out."""

    def composed(rows: list[Row], *overrides: str) -> Config:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        knobs = [knob for knob in SMALL if not knob.startswith("data.")]
        return config(
            *knobs, "data=dataset", f"data.path={file}", "data.num_val=8", "stage.micro_batch_size=1", *overrides
        )

    return composed


@pytest.fixture
def checked(prepare: Callable[..., Config]) -> Run:
    """The checked experiment of such a config."""

    def built(rows: list[Row], *overrides: str) -> Experiment:
        cfg = prepare(rows, *overrides)
        check_schema(cfg)
        experiment = build(cfg)
        check_parts(cfg, experiment)
        return experiment

    return built


def refused(checked: Run, rows: list[Row], *overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        checked(rows, *overrides)
    return caught.value


def fillers(n: int = 40, **columns: str) -> list[Row]:
    return [{"prompt": f"{i}+1=?", "answer": str(i + 1), **columns} for i in range(n)]


# ---- every row, in tokens ----


def test_prompt_with_few_characters_and_many_tokens_is_refused(checked: Run) -> None:
    error = refused(checked, [*SHORT, EMOJI], "stage=grpo")
    assert "the longest prompt has 1126 tokens" in error.message  # 1,120 and the chat's words around them
    assert error.key == "rollout.max_completion_length"


def test_long_prompt_among_longer_texts_is_refused_wherever_it_is(checked: Run) -> None:
    for at in (0, 200, 320):
        assert "1126 tokens" in refused(checked, [*SHORT[:at], EMOJI, *SHORT[at:]], "stage=grpo").message


def test_room_for_a_completion_is_counted_to_the_token(checked: Run) -> None:
    rows = [*fillers(), {"prompt": "\U0001f9ee" * 250, "answer": "7"}]  # 1,000 tokens, and 6
    assert checked(rows, "stage=grpo", "rollout.max_completion_length=18").data.counts == {}
    error = refused(checked, rows, "stage=grpo", "rollout.max_completion_length=19")
    assert error.expected == "at most 18"


def test_shorter_context_of_an_engine_is_the_limit_of_prompts_and_not_of_examples(
    checked: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1.rollout.transformers.Transformers.max_model_len", 48)  # 8 of them are a completion's
    rows = [*fillers(), {"prompt": "\U0001f9ee" * 9, "answer": "7"}]  # 36 tokens, and 6
    error = refused(checked, rows, "stage=grpo")
    assert "the longest prompt has 42 tokens: with 8 more it does not fit into the context of 48" in error.message
    assert "data.max_prompt_length=40, or raise the engine's max_model_len" in error.hint
    assert checked(rows, "stage=grpo", "data.overlong=drop").data.counts["data/dropped"] == 1
    checked([row | {"completion": "9" * 100} for row in fillers()], "stage=sft")


def test_example_is_prompt_and_completion_together(checked: Run) -> None:
    half = "\U0001f3b2" * 127  # 508 tokens; twice that, 6 around them and the closing token: 1,023
    fits = [*fillers(completion="2"), {"prompt": half, "answer": "7", "completion": half}]
    checked(fits, "stage=sft")
    error = refused(checked, [*fits[:-1], fits[-1] | {"completion": half + "12 12"}], "stage=sft")
    assert "the longest example does not fit into the model's context" in error.message
    assert error.value == 1025


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_each_answer_of_a_pair_is_measured(checked: Run, side: str) -> None:
    rows = fillers(chosen="2", rejected="3")
    checked(rows, "stage=reward_model")
    error = refused(checked, [*rows, rows[0] | {"prompt": "x", side: EMOJI["prompt"]}], "stage=reward_model")
    assert "the longest example does not fit" in error.message


# ---- data.max_prompt_length and data.overlong ----


def test_max_prompt_length_counts_the_longer_prompts(checked: Run) -> None:
    rows = [*fillers(), *({"prompt": f"{'9' * 30}{i}", "answer": "1"} for i in range(3))]
    error = refused(checked, rows, "stage=grpo", "data.max_prompt_length=20")
    assert error.message.startswith("3 prompts are longer than 20 tokens")
    assert (error.key, error.value) == ("data.max_prompt_length", 20)


@pytest.mark.parametrize(("stage", "columns"), [
    ("stage=grpo", {}), ("stage=sft", {"completion": "2"}), ("stage=reward_model", {"chosen": "2", "rejected": "3"}),
])  # fmt: skip
def test_drop_leaves_overlong_rows_out_and_counts_them(checked: Run, stage: str, columns: dict[str, str]) -> None:
    rows = [*fillers(**columns), EMOJI | columns, {"prompt": "9" * 40, "answer": "1"} | columns]
    kept = checked(rows, stage, "data.overlong=drop", "data.max_prompt_length=30")
    used = kept.data.train + kept.data.val
    assert len(used) == 40
    assert not [row for row in used if len(row["prompt"]) > 10]
    assert kept.data.counts == {"data/dropped": 2.0, "data/truncated": 0.0}
    assert len(kept.source.train) + len(kept.source.val) == 42  # the fingerprint is that of the file's rows


def test_drop_of_a_long_answer_leaves_the_row_out(checked: Run) -> None:
    rows = [*fillers(completion="2"), {"prompt": "?", "answer": "7", "completion": EMOJI["prompt"]}]
    assert len(checked(rows, "stage=sft", "data.overlong=drop").data.train) == 32


def test_drop_of_all_rows_is_refused(checked: Run) -> None:
    error = refused(checked, fillers(), "stage=grpo", "data.overlong=drop", "data.max_prompt_length=5")
    assert "all 32 rows are longer than 5 tokens" in error.message


def test_truncate_left_keeps_the_last_tokens_of_a_prompt(checked: Run) -> None:
    overrides = ["data.overlong=truncate_left", "data.max_prompt_length=30"]
    rows = [*fillers(completion="2"), EMOJI | {"completion": "12"}]
    experiment = checked(rows, "stage=sft", *overrides)
    assert experiment.data.counts == {"data/dropped": 0.0, "data/truncated": 1.0}
    tokenizer, row = experiment.stage.tokenizer, rows[-1]
    text = f"User: {EMOJI['prompt']}\nAssistant:"
    assert experiment.data.prompt_ids(tokenizer, row) == tokenize(tokenizer, text)[-30:]
    context, learned, _ = experiment.data.example(tokenizer, row)
    assert (context, learned) == (tokenize(tokenizer, text)[-30:], tokenize(tokenizer, "12<|eos|>"))


def test_truncate_left_cuts_a_conversation_before_its_last_answer(checked: Run) -> None:
    turns = [("user", "3+4=?"), ("assistant", "7"), ("user", "1+2+3=?"), ("assistant", "6")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    experiment = checked(
        [*({"prompt": f"{i}+1=?", "completion": "2"} for i in range(32)), row],
        *("stage=sft", "data.overlong=truncate_left", "data.max_prompt_length=22", "data.columns.messages=messages"),
    )
    tokenizer = experiment.stage.tokenizer
    (row,) = [row for row in [*experiment.data.train, *experiment.data.val] if isinstance(row["prompt"], list)]
    ids = tokenize(tokenizer, "User: 3+4=?\nAssistant:7<|eos|>\nUser: 1+2+3=?\nAssistant:6<|eos|>")
    last = len(ids) - len(tokenize(tokenizer, "6<|eos|>"))
    context, targets, is_learned = experiment.data.example(tokenizer, row)
    assert context + targets == ids[last - 22 :]
    learned = [token for token, learn in zip(targets, is_learned, strict=True) if learn]
    assert learned == tokenize(tokenizer, "7<|eos|>6<|eos|>")[-len(learned) :]


def test_truncate_left_shortens_the_chats_of_a_reward_model(checked: Run) -> None:
    rows = [*fillers(chosen="2", rejected="3"), EMOJI | {"chosen": "2", "rejected": "3"}]
    stage: Any = checked(rows, "stage=reward_model", "data.overlong=truncate_left", "data.max_prompt_length=30").stage
    chat = tokenize(stage.tokenizer, f"User: {EMOJI['prompt']}\nAssistant:2<|eos|>\n")
    assert stage.chat_ids(rows[-1], "chosen") == chat[-33:]  # 30 of the prompt, the answer, its end, the line break


@pytest.mark.parametrize("length", ["null", "1017"])
def test_truncate_left_needs_a_length_that_leaves_room(checked: Run, length: str) -> None:
    overrides = ["data.overlong=truncate_left", f"data.max_prompt_length={length}"]
    error = refused(checked, fillers(), "stage=grpo", *overrides)
    assert (error.key, error.expected) == ("data.max_prompt_length", "at most 1016")  # 8 are a completion's


def test_run_reports_dropped_rows_once_and_has_the_fingerprint_of_the_file(
    prepare: Callable[..., Config], folder: Path
) -> None:
    cfg = prepare([*fillers(), EMOJI], "stage=sft", "data.columns.completion=answer", "data.overlong=drop")
    execute(cfg | {"output_dir": str(folder)}, [])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row.get("data/dropped") == 1.0] == [0]
    whole = build(prepare([*fillers(), EMOJI], "stage=sft", "data.columns.completion=answer")).source
    assert json.loads((folder / "manifest.json").read_text())["data"] == whole.digest()


@pytest.mark.parametrize(
    ("stage", "row"),
    [
        ("sft", {"completion": "<answer>1</answer>"}),
        ("sft", {"messages": [{"role": role, "content": "1"} for role in ("user", "assistant", "user", "assistant")]}),
        ("grpo", {}),
    ],
)
def test_conversations_of_many_rows_are_rendered_at_once(
    checked: Run, monkeypatch: pytest.MonkeyPatch, stage: str, row: Row
) -> None:
    calls = []
    original = chat._run
    monkeypatch.setattr(chat, "_run", lambda jobs: calls.append(len(jobs)) or original(jobs))
    talk = row.get("messages", [])
    rows = [
        r | row | {"messages": [m | {"content": f"{r['prompt'][:40]} {m['content']}"} for m in talk] or None}
        for r in SHORT
    ]
    checked(rows, f"stage={stage}")
    assert sum(calls) < 30  # of one kind only the first rows
    monkeypatch.setattr(RowBounds, "fits", lambda *_: False)
    checked(rows, f"stage={stage}", "data.max_prompt_length=300")
    assert sum(calls) >= len(rows)
    assert len(calls) < 60


# ---- the bound ----


@settings(max_examples=150)
@given(st.sampled_from(sorted(TOKENIZERS)), st.text(max_size=40), st.lists(st.sampled_from(SPECIALS), max_size=3))
def test_max_tokens_is_at_least_the_tokens_of_any_text(kind: str, text: str, specials: list[str]) -> None:
    tokenizer = tokenizer_of(TOKENIZERS[kind](SPECIALS), "")
    text = text.join(["", *specials, ""])
    assert len(tokenize(tokenizer, text)) <= max_tokens(tokenizer, text)


def test_lengths_over_tokenises_only_texts_that_may_be_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of(TOKENIZERS["byte_level"](SPECIALS), "")
    seen: list[str] = []

    class Counting(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, texts: list[str], **options: Any) -> Any:
            seen.extend(texts)
            return super().__call__(texts, **options)

    monkeypatch.setattr(tokenizer, "__class__", Counting)
    assert lengths_over(tokenizer, ["a" * 10, "\u7b49" * 10, "\u00e9\u00e8" * 8], [40, 20, 40]) == {}
    assert seen == ["\u7b49" * 10]


def test_very_long_text_is_not_counted_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of(TOKENIZERS["byte_level"](SPECIALS), "")
    seen: list[int] = []

    class Counting(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, texts: list[str], **options: Any) -> Any:
            seen.extend(map(len, texts))
            return super().__call__(texts, **options)

    monkeypatch.setattr(tokenizer, "__class__", Counting)
    assert lengths_over(tokenizer, ["a b " * 500_000, "c d " * 10], [10, 10]) == {0: 65_537, 1: 40}
    assert seen == [16 * 65_536, 40]


def test_long_text_of_few_tokens_is_counted_whole() -> None:
    tokenizer = tokenizer_of(TOKENIZERS["byte_level"](["<long special token of over sixteen characters>"]), "")
    text = "<long special token of over sixteen characters>" * 30_000
    assert lengths_over(tokenizer, [text], [10]) == {0: 30_000}
