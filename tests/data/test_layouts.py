"""Known datasets in their public layouts (column names and types), read from parquet, jsonl and ``save_to_disk``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from datasetoptions import knobs_of
from datasets import Dataset
from templates import chat

from r1.config.check.schema import resolve
from r1.data.base import Data, Row
from r1.data.verifier.exact import exact


@dataclass
class Layout:
    """A dataset's row, the option and the columns to read it with, and what of r1's columns comes out."""

    row: Row
    expected: Row
    columns: dict[str, str | None] = field(default_factory=dict)
    option: str = "dataset"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


TALK = [user("2+2?"), assistant("4"), user("And 3+3?"), assistant("6")]
R1 = "<think>\nTwo and two.\n</think>\n\nIt is \\boxed{4}."
BOX = "We add: $2+2=\\boxed{4}$."
LAYOUTS = {
    "openai/gsm8k": Layout(
        {"question": "2+2?", "answer": "It is <<2+2=4>>4.\n#### 4"},
        {"prompt": "2+2?", "answer": "4", "completion": "<think>\nIt is 4.\n</think>\n<answer>4</answer>"},
        option="gsm8k",
    ),
    "DigitalLearningGmbH/MATH-lighteval": Layout(
        {"problem": "2+2?", "level": "Level 1", "solution": BOX, "type": "Algebra"},
        {"prompt": "2+2?", "answer": "4", "level": "Level 1", "type": "Algebra"},
        option="math",
    ),
    "HuggingFaceH4/MATH-500": Layout(
        {
            "problem": "2+2?",
            "solution": BOX,
            "answer": "4",
            "subject": "Algebra",
            "level": 1,
            "unique_id": "test/1.json",
        },
        {"prompt": "2+2?", "answer": "4", "level": 1},
        {"prompt": "problem"},
    ),
    "open-r1/OpenR1-Math-220k": Layout(
        {
            "problem": "2+2?",
            "solution": BOX,
            "answer": "4",
            "problem_type": "Algebra",
            "question_type": "math-word-problem",
            "source": "olympiads",
            "uuid": "x",
            "is_reasoning_complete": [True, True],
            "generations": ["<think>\nno\n</think>\n\\boxed{5}", R1],
            "correctness_math_verify": [False, True],
            "correctness_llama": None,
            "finish_reasons": None,
            "correctness_count": 1,
            "messages": [user("2+2?"), assistant(R1)],
        },
        {
            "prompt": "2+2?",
            "answer": "4",
            "completion": "<think>\nTwo and two.\n</think>\n<answer>It is \\boxed{4}.</answer>",
        },
        option="openr1_math",
    ),
    "BytedTsinghua-SIA/DAPO-Math-17k": Layout(
        {
            "data_source": "math_dapo",
            "prompt": [user("2+2?")],
            "ability": "MATH",
            "reward_model": {"ground_truth": "4", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "x"},
        },
        {"prompt": "2+2?", "answer": "4", "ability": "MATH"},
        {"answer": "reward_model.ground_truth"},
    ),
    "AI-MO/NuminaMath-CoT": Layout(
        {"source": "synthetic_math", "problem": "2+2?", "solution": BOX, "messages": [user("2+2?"), assistant(BOX)]},
        {"prompt": "2+2?", "answer": "4"},
        option="math",
    ),
    "open-thoughts/OpenThoughts-114k": Layout(
        {
            "system": "Think.",
            "conversations": [{"from": "user", "value": "2+2?"}, {"from": "assistant", "value": R1}],
        },
        {"prompt": "2+2?", "system": "Think."},
    ),
    "allenai/tulu-3-sft-mixture": Layout(
        {"id": "x", "messages": TALK, "source": "ai2-adapt-dev/flan_v2"}, {"prompt": TALK[:3], "messages": TALK}
    ),
    "HuggingFaceH4/ultrachat_200k": Layout(
        {"prompt": "2+2?", "prompt_id": "x", "messages": TALK}, {"prompt": "2+2?", "messages": TALK}
    ),
    "HuggingFaceH4/ultrafeedback_binarized": Layout(
        {
            "prompt": "2+2?",
            "prompt_id": "x",
            "chosen": [user("2+2?"), assistant("4")],
            "rejected": [user("2+2?"), assistant("5")],
            "messages": [user("2+2?"), assistant("4")],
            "score_chosen": 8.5,
            "score_rejected": 3.0,
        },
        {"prompt": "2+2?", "chosen": "4", "rejected": "5", "score_chosen": 8.5},
    ),
    "Anthropic/hh-rlhf (TRL's conversational)": Layout(
        {"chosen": [user("2+2?"), assistant("4")], "rejected": [user("2+2?"), assistant("5")]},
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    ),
    "simplescaling/s1K-1.1": Layout(
        {
            "solution": "4",
            "question": "2+2?",
            "cot_type": "math",
            "deepseek_thinking_trajectory": "Two.",
            "deepseek_attempt": "4.",
        },
        {"prompt": "2+2?", "answer": "4", "completion": "<think>\nTwo.\n</think>\n4."},
        {
            "prompt": "question",
            "answer": "solution",
            "completion": "<think>\n{deepseek_thinking_trajectory}\n</think>\n{deepseek_attempt}",
        },
    ),
    "GAIR/LIMO": Layout(
        {"question": "2+2?", "solution": "Two and two.", "answer": "4"},
        {"prompt": "2+2?", "answer": "4", "completion": "Two and two."},
        {"prompt": "question", "completion": "solution"},
    ),
    "agentica-org/DeepScaleR-Preview-Dataset": Layout(
        {"problem": "2+2?", "answer": "4", "solution": BOX}, {"prompt": "2+2?", "answer": "4"}, {"prompt": "problem"}
    ),
    "Maxwell-Jia/AIME_2024": Layout(
        {"ID": "2024-I-1", "Problem": "2+2?", "Solution": BOX, "Answer": 4},
        {"prompt": "2+2?", "answer": "4"},
        {"prompt": "Problem", "answer": "Answer"},
    ),
    "Idavidrein/gpqa": Layout(
        {
            "Question": "2+2?",
            "Correct Answer": "4",
            "Incorrect Answer 1": "5",
            "Incorrect Answer 2": "6",
            "Incorrect Answer 3": "7",
        },
        {"prompt": "2+2?\n5 | 4", "answer": "4"},
        {"prompt": "{Question}\n{Incorrect Answer 1} | {Correct Answer}", "answer": "Correct Answer"},
    ),
    "TIGER-Lab/MMLU-Pro": Layout(
        {
            "question_id": 1,
            "question": "2+2?",
            "options": ["3", "4"],
            "answer": "B",
            "answer_index": 1,
            "category": "math",
        },
        {"prompt": "2+2?\nA. 3\nB. 4", "answer": "B", "category": "math"},
        {"prompt": "{question}\n{options}"},
    ),
    "bespokelabs/Bespoke-Stratos-17k": Layout(
        {"system": "Think.", "conversations": [{"from": "user", "value": "2+2?"}, {"from": "assistant", "value": R1}]},
        {"prompt": "2+2?", "system": "Think."},
    ),
    "nvidia/OpenMathReasoning": Layout(
        {
            "expected_answer": "4",
            "problem_type": "has_answer_extracted",
            "problem": "2+2?",
            "generation_model": "DeepSeek-R1",
            "pass_rate_72b_tir": "0.96875",
            "generated_solution": R1,
            "inference_mode": "cot",
            "used_in_kaggle": True,
        },
        {"prompt": "2+2?", "answer": "4", "completion": R1},
        {"prompt": "problem", "answer": "expected_answer", "completion": "generated_solution"},
    ),
    "open-r1/codeforces-cots": Layout(
        {"id": "1A", "contest_id": "1", "prompt": "Sum?", "generation": R1, "messages": [user("Sum?"), assistant(R1)]},
        {"prompt": "Sum?", "completion": R1},
        {"completion": "generation"},
    ),
    "tatsu-lab/alpaca": Layout(
        {"instruction": "Add.", "input": "2+2?", "output": "4", "text": "..."},
        {"prompt": "Add.\n2+2?", "completion": "4"},
        {"prompt": "{instruction}\n{input}", "completion": "output"},
    ),
    "POLARIS-Project/Polaris-Dataset-53K": Layout(
        {"problem": "2+2?", "answer": "4", "difficulty": "3/8"},
        {"prompt": "2+2?", "answer": "4", "difficulty": "3/8"},
        option="polaris",
    ),
    "agentica-org/DeepScaleR-Preview-Dataset (its option)": Layout(
        {"problem": "2+2?", "answer": "4", "solution": ""}, {"prompt": "2+2?", "answer": "4"}, option="deepscaler"
    ),
    "zwhe99/DeepMath-103K": Layout(
        {
            "question": "2+2?",
            "final_answer": "4",
            "difficulty": 4.5,
            "topic": "Algebra",
            "r1_solution_1": R1,
            "r1_solution_2": R1,
            "r1_solution_3": R1,
        },
        {"prompt": "2+2?", "answer": "4", "topic": "Algebra"},
        option="deepmath",
    ),
    "Skywork/Skywork-OR1-RL-Data": Layout(
        {
            "data_source": "train-math-numinamath1.5_olympiads",
            "prompt": [user("2+2?")],
            "ability": "math",
            "reward_model": {"ground_truth": '["\\\\frac{8}{2}"]', "style": "rule"},
            "extra_info": {"index": 3, "model_difficulty": {"DeepSeek-R1-Distill-Qwen-7B": 4}},
        },
        {"prompt": "2+2?", "answer": "\\frac{8}{2}"},
        option="skywork_or1",
    ),
    "open-thoughts/OpenThoughts3-1.2M": Layout(
        {
            "difficulty": 7.0,
            "source": "ai2-adapt-dev/openmath-2-math",
            "domain": "math",
            "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": R1}],
        },
        {"prompt": "2+2?", "messages": [user("2+2?"), assistant(R1)]},
    ),
    "Anthropic/hh-rlhf": Layout(
        {
            "chosen": "\n\nHuman: 2+2?\n\nAssistant: 4\n\nHuman: Sure?\n\nAssistant: Yes.",
            "rejected": "\n\nHuman: 2+2?\n\nAssistant: 4\n\nHuman: Sure?\n\nAssistant: No.",
        },
        {"prompt": [user("2+2?"), assistant("4"), user("Sure?")], "chosen": "Yes.", "rejected": "No."},
    ),
    "Open-Orca/OpenOrca": Layout(
        {"id": "niv.1", "system_prompt": "", "question": "2+2?", "response": "4"},
        {"prompt": "2+2?", "completion": "4", "system": ""},
        {"prompt": "question", "completion": "response", "system": "system_prompt"},
    ),
    "Intel/orca_dpo_pairs": Layout(
        {"system": "Think.", "question": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": "2+2?", "system": "Think.", "chosen": "4", "rejected": "5"},
        {"prompt": "question"},
    ),
    "nvidia/Llama-Nemotron-Post-Training-Dataset": Layout(
        {
            "input": [user("2+2?")],
            "output": "4",
            "category": "math",
            "license": "cc-by-4.0",
            "reasoning": "off",
            "generator": "R1",
            "used_in_training": "Ultra",
            "version": "v1.1",
            "system_prompt": "detailed thinking off",
        },
        {"prompt": "2+2?", "completion": "4", "system": "detailed thinking off"},
        {"prompt": "input", "completion": "output", "system": "system_prompt"},
    ),
    "Jiayi-Pan/Countdown-Tasks-3to4": Layout(
        {"target": 98, "nums": [44, 19, 35], "id": "2+2?"},
        {"prompt": "2+2? Make 98 of [44, 19, 35].", "nums": [44, 19, 35], "answer": "98"},
        {"prompt": "{id} Make {target} of {nums}.", "answer": "target"},
    ),
    "allenai/ai2_arc": Layout(
        {"id": "1", "question": "2+2?", "choices": {"text": ["3", "4"], "label": ["A", "B"]}, "answerKey": "B"},
        {"prompt": "2+2?\nA. 3\nB. 4", "answer": "B"},
        {"prompt": "{question}\n{choices.text}", "answer": "answerKey"},
    ),
    "Salesforce/xlam-function-calling-60k": Layout(
        {
            "id": 0,
            "query": "2+2?",
            "answers": '[{"name": "add", "arguments": {"a": 2, "b": 2}}]',
            "tools": '[{"name": "add", "description": "Adds.", "parameters": {"a": {"type": "int"}}}]',
        },
        {
            "prompt": "2+2?",
            "answer": "add",
            "tools": [{"name": "add", "description": "Adds.", "parameters": {"a": {"type": "int"}}}],
        },
        {"prompt": "query", "answer": "answers.0.name"},
    ),
    "OpenAI's fine-tuning files": Layout(
        {"messages": [user("2+2?"), assistant("5") | {"weight": 0}, user("Sure?"), assistant("4") | {"weight": 1}]},
        {
            "prompt": [user("2+2?"), assistant("5"), user("Sure?")],
            "messages": [user("2+2?"), assistant("5") | {"weight": 0}, user("Sure?"), assistant("4")],
        },
    ),
    "PRIME-RL/Eurus-2-RL-Data (verl)": Layout(
        {
            "data_source": "numina",
            "prompt": [{"role": "system", "content": "Think."}, user("2+2?")],
            "ability": "math",
            "reward_model": {"ground_truth": "4", "style": "rule"},
        },
        {"prompt": "2+2?", "system": "Think.", "answer": "4"},
        {"answer": "reward_model.ground_truth"},
    ),
}


def rows_like(row: Row, count: int = 12) -> list[Row]:
    """Rows with different questions."""
    text = json.dumps(row)
    return [json.loads(text.replace("2+2?", f"2+2? ({i})").replace("Sum?", f"Sum? ({i})")) for i in range(count)]


def write_jsonl(rows: list[Row], path: Path) -> Path:
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.with_suffix(".jsonl")


def write_parquet(rows: list[Row], path: Path) -> Path:
    path.mkdir()
    Dataset.from_list(rows).to_parquet(path / "train-00000-of-00001.parquet")
    return path


def write_saved(rows: list[Row], path: Path) -> Path:
    Dataset.from_list(rows).save_to_disk(path)
    return path


def read(layout: Layout, path: Path, learns: bool = True, **knobs: Any) -> Data:
    options = knobs_of(layout.option)
    options |= {"path": str(path), "val_split": None, "num_val": 3, "name": None, "train_split": "train"} | knobs
    options["columns"] = options["columns"] | layout.columns
    shared = {"template": chat(), "verifier": exact, "terms": None, "weight": None}
    data: Data = resolve(f"r1.data.{layout.option}.{layout.option}", "data")(learns, **options, **shared)
    return data


@pytest.mark.parametrize("write", [write_jsonl, write_parquet, write_saved])
@pytest.mark.parametrize("name", LAYOUTS)
def test_public_layout_is_read(tmp_path: Path, name: str, write: Callable[[list[Row], Path], Path]) -> None:
    layout = LAYOUTS[name]
    rows = rows_like(layout.row)
    data = read(layout, write(rows, tmp_path / "copy"))
    assert (len(data.train), len(data.val)) == (9, 3)
    wanted = rows_like(layout.expected)
    for row in data.train + data.val:
        (expected,) = [expected for expected in wanted if expected["prompt"] == row["prompt"]]
        assert {column: row.get(column) for column in expected} == expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_format_of_a_layout_has_the_same_rows(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    rows = rows_like(layout.row)
    as_jsonl, as_parquet, as_saved = (
        read(layout, write(rows, tmp_path / write.__name__)) for write in (write_jsonl, write_parquet, write_saved)
    )
    assert as_parquet.train == as_saved.train == as_jsonl.train
    assert as_parquet.val == as_jsonl.val
