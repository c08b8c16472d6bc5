"""DAPO-Math-17k in its published layout: the question alone, and the nested answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import SMALL

BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


def test_question_is_read_without_its_own_instruction_and_ends_with_r1s(
    config: Callable[..., Any], tmp_path: Path
) -> None:
    from r1.config.build import build

    rows = [
        {
            "data_source": "math_dapo",
            "prompt": [{"content": f"{BEFORE}What is {i}+5?\n\nShow it.{AFTER}", "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": str(i + 5), "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": str(i)},
        }
        for i in range(20)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = [knob for knob in SMALL if not knob.startswith("data.")]
    made = build(
        config(*small, "stage=grpo", "data=dapo_math", f"data.path={tmp_path / 'rows.jsonl'}", "data.num_val=2")
    )
    row = made.data.train[0]
    assert row["prompt"] == f"What is {int(row['answer']) - 5}+5?\n\nShow it."
    prompt = made.data.prompt_text(made.stage.tokenizer, row)
    assert prompt == f"User: {row['prompt']}\nPut the final answer within \\boxed{{}}.\nAssistant:"
    assert made.data.correct(f"It is \\boxed{{{row['answer']}}}.", row)
