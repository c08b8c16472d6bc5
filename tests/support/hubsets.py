"""Benchmarks in the Hub's layouts: files, splits, column names and types as they lie there; 30 rows of our own."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset, Features, Sequence, Value

from r1.data.base import Row

NUM_ROWS = 30
TEXT, INT = Value("string"), Value("int64")
SUBJECTS = ("Algebra", "Geometry", "Number Theory")
DOMAINS = ("Physics", "Chemistry", "Biology")
GPQA_UNUSED = [  # of its 60 columns; most cells are empty
    *(f"Pre-Revision {name}" for name in ("Question", "Correct Answer", "Incorrect Answer 1", "Explanation")),
    *("Self-reported question-writing time (minutes)", "Explanation", "Revision Comments (from Question Writer)"),
    *("Writer's Difficulty Estimate", "Extra Revised Question", "Non-Expert Validator Accuracy", "Record ID"),
    *("Question Writer", "Feedback_EV_1", "Probability Correct_EV_1", "Canary String"),
]


def question(i: int) -> str:
    return f"A shop sells {i + 3} boxes with {i + 2} pens in each.\nHow many pens are that?"


def number(i: int) -> int:
    return (i + 3) * (i + 2)


def worked(i: int) -> str:
    return f"It is {i + 3}*{i + 2}=<<{i + 3}*{i + 2}={number(i)}>>{number(i)}."


def write_parquet(rows: list[Row], types: dict[str, object], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=Features(types)).to_parquet(file)


def write_jsonl(rows: list[Row], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def aime24(folder: Path) -> None:
    """HuggingFaceH4/aime_2024: answers are text, some with a leading zero."""
    rows = [
        {"id": 60 + i, "problem": question(i), "solution": f"We get $\\boxed{{{number(i):03}}}$."}
        | {"answer": f"{number(i):03}", "url": "https://example.org/a", "year": "2024"}
        for i in range(NUM_ROWS)
    ]
    types = {name: INT if name == "id" else TEXT for name in rows[0]}
    write_parquet(rows, types, folder / "data" / "train-00000-of-00001.parquet")


def aime25(folder: Path) -> None:
    """math-ai/aime25."""
    rows = [{"problem": question(i), "answer": str(number(i)), "id": str(i)} for i in range(NUM_ROWS)]
    write_jsonl(rows, folder / "test.jsonl")


def math500(folder: Path) -> None:
    """HuggingFaceH4/MATH-500."""
    rows = [
        {"problem": question(i), "solution": f"It is \\boxed{{\\frac{{{number(i)}}}{{7}}}}."}
        | {"answer": f"\\frac{{{number(i)}}}{{7}}", "subject": SUBJECTS[i % 3], "level": 1 + i % 5}
        | {"unique_id": f"test/algebra/{i}.json"}
        for i in range(NUM_ROWS)
    ]
    write_jsonl(rows, folder / "test.jsonl")


def gpqa_diamond(folder: Path) -> None:
    """Idavidrein/gpqa: a .csv file for each configuration, named by the card; the right answer has its own column."""
    configs = ("gpqa_diamond", "gpqa_main")
    listed = "".join(f"- config_name: {name}\n  data_files: {name}.csv\n" for name in configs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\nlicense: cc-by-4.0\nconfigs:\n{listed}---\n# GPQA\n")
    for name, count in zip(configs, (NUM_ROWS, NUM_ROWS + 5), strict=True):
        rows = [
            {"Question": question(i), "Correct Answer": f"{number(i)} pens\n"}
            | {f"Incorrect Answer {k}": f"{number(i) + k} pens" for k in (1, 2, 3)}
            | {"High-level domain": DOMAINS[i % 3], "Subdomain": f"{DOMAINS[i % 3]} (general)"}
            | dict.fromkeys(GPQA_UNUSED, "")
            for i in range(count)
        ]
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def gsm8k(folder: Path) -> None:
    """openai/gsm8k: two configurations, two splits each."""
    for config, first in (("main", ""), ("socratic", "How many are there? ** ")):
        for split, start in (("train", 0), ("test", NUM_ROWS)):
            rows = [
                {"question": question(i), "answer": f"{first}{worked(i)}\n#### {number(i):,}"}
                for i in range(start, start + NUM_ROWS)
            ]
            file = folder / config / f"{split}-00000-of-00001.parquet"
            write_parquet(rows, {"question": TEXT, "answer": TEXT}, file)


def mmlu_pro(folder: Path) -> None:
    """TIGER-Lab/MMLU-Pro: three to ten options; the worked answers of `validation` alone are not empty."""
    for split, start in (("test", 0), ("validation", NUM_ROWS)):
        rows = []
        for i in range(start, start + NUM_ROWS):
            right = i % 3
            options = [f"{number(i) + k - right} pens" for k in range(3 + i % 8)]
            rows.append(
                {"question_id": i, "question": question(i), "options": options, "answer": "ABC"[right]}
                | {"answer_index": right, "cot_content": "A: Let's think." if split == "validation" else ""}
                | {"category": SUBJECTS[i % 3], "src": "ori_mmlu-high_school"}
            )
        types = dict.fromkeys(("question", "answer", "cot_content", "category", "src"), TEXT)
        types |= {"question_id": INT, "answer_index": INT, "options": Sequence(TEXT)}
        write_parquet(rows, types, folder / "data" / f"{split}-00000-of-00001.parquet")


BENCHMARKS: dict[str, Callable[[Path], None]] = {
    function.__name__: function for function in (aime24, aime25, math500, gpqa_diamond, gsm8k, mmlu_pro)
}
"""Option -> writes its copy of the Hub into a folder."""
