"""lm-evaluation-harness's verdicts on completions; runs in its own environment (benchmarks/lm_eval_agreement.py).

A line of standard input is ``{"task": name, "gold": text, "completion": text, "options": []}``, one of standard output
``{metric: 0 or 1}``. The tasks' own files in the package define patterns and metrics; no data set is loaded.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import lm_eval.tasks
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters import build_filter_ensemble
from lm_eval.tasks.minerva_math import utils as minerva

FOLDER = Path(lm_eval.tasks.__file__).parent
FILES = {
    "gsm8k": "gsm8k/gsm8k.yaml",
    "mmlu_pro": "mmlu_pro/_default_template_yaml",
    "gpqa": "gpqa/cot_zeroshot/_gpqa_cot_zeroshot_yaml",
}


def task_config(file: str) -> dict[str, Any]:
    """A task's YAML file without its references to functions."""
    text = re.sub(r"!function (\S+)", r"'\1'", (FOLDER / file).read_text())
    return dict(yaml.safe_load(text))


def exact_match(task: str, gold: str, completion: str, options: list[str]) -> dict[str, int]:
    """Each filter's extraction, compared as the task's metric does."""
    config = task_config(FILES[task])
    metric = next(one for one in config["metric_list"] if one["metric"] == "exact_match")
    knobs = {
        name: metric[name] for name in ("ignore_case", "ignore_punctuation", "regexes_to_ignore") if name in metric
    }
    verdicts = {}
    for one in config["filter_list"]:
        steps = [(step["function"], {k: v for k, v in step.items() if k != "function"}) for step in one["filter"]]
        extracted = apply(steps, completion, options)
        verdicts[one["name"]] = int(exact_match_hf_evaluate([extracted], [gold], **knobs)["exact_match"])
    return verdicts


def apply(steps: list[tuple[str, dict[str, Any]]], completion: str, options: list[str]) -> str:
    ensemble = build_filter_ensemble("filter", steps)
    values: Any = [[completion]]
    for make in ensemble.filters:
        values = make().apply(values, [{"choices": options}])
    (value,) = values
    return str(value)


def minerva_math(gold: str, completion: str) -> dict[str, int]:
    document = {"solution": f"\\boxed{{{gold}}}", "answer": minerva.normalize_final_answer(gold)}
    return dict(minerva.process_results(document, [completion]))


def main() -> None:
    for line in sys.stdin:
        case = json.loads(line)
        with contextlib.redirect_stdout(io.StringIO()):
            if case["task"] == "minerva_math":
                verdicts = minerva_math(case["gold"], case["completion"])
            else:
                verdicts = exact_match(case["task"], case["gold"], case["completion"], case["options"])
        print(json.dumps(verdicts), flush=True)


if __name__ == "__main__":
    main()
