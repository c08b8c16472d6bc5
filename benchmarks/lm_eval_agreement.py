"""Agreement with lm-evaluation-harness: both score the same completions, and each disagreement is classified.

    python -m benchmarks.lm_eval_agreement [ENVIRONMENT] [--all] [--record RECORD]

The harness is installed into an environment of its own (~/.cache/r1/lm_eval; benchmarks/peers/lm_eval.txt), scores
texts by its tasks' own patterns and metrics, and loads no data set. Completions are put together here from a gold
answer, a spelling whose correctness is known, and a form: GSM8K's numbers, the tables of tests/data/answers (MATH), and
letters of options (MMLU-Pro, GPQA). For each task, metric of the harness and reading of r1 it prints the share of equal
verdicts, and the disagreements by cause: the form that one of the two does not read, or the spelling, and who is right.
With --record the completions are a model's, from the record of an evaluation with numbers as gold answers; one is taken
as right if its last number is the gold one.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from options import build_option

from r1.data.base import as_verifier, verify_completions
from r1.data.completion import parse
from r1.data.lenient import lenient_answer

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"
VERIFIERS = {"gsm8k": "exact", "minerva_math": "math", "mmlu_pro": "choice", "gpqa": "choice"}
READERS = {"gsm8k": "last_number", "minerva_math": "boxed", "mmlu_pro": "letter", "gpqa": "letter"}
MARKS = {"answer tag": "<answer>", "box": "\\boxed", "#### x": "####", "sentence": "answer is"}
WORK = "First one step, then another."
OPTIONS = ["3 m/s", "6 m/s", "12 m/s", "24 m/s"]


@dataclass(frozen=True)
class Case:
    """One completion.

    Attributes:
        gold: as the harness has it.
        answer: as r1 has it.
        is_right: whether the spelling is the gold answer.
        form: how the answer stands in the completion.
    """

    task: str
    gold: str
    answer: str
    completion: str
    is_right: bool
    form: str
    spelling: str
    options: list[str] = field(default_factory=list)


def gsm8k() -> Iterator[Case]:
    forms = {
        "#### x": "{work}\n#### {x}",
        "answer tag": "<think>{work}</think>\n<answer>{x}</answer>",
        "answer tag and ####": "<think>{work}</think>\n<answer>{x}</answer>\n#### {x}",
        "box": "{work} So it is $\\boxed{{{x}}}$.",
        "sentence": "{work} The answer is {x}.",
    }
    for gold in (3, 18, 70000, 540, 26, 1450, 7, 104):
        spellings = {
            "plain": (f"{gold}", True),
            "thousands": (f"{gold:,}", True),
            "dollars": (f"${gold}", True),
            "decimal zero": (f"{gold}.0", True),
            "with a unit": (f"{gold} apples", True),
            "one more": (f"{gold + 1}", False),
            "tenfold": (f"{gold}0", False),
            "negative": (f"-{gold}", False),
            "and a half": (f"{gold}.5", False),
        }
        for form, template in forms.items():
            for spelling, (text, is_right) in spellings.items():
                completion = template.format(work=WORK, x=text)
                yield Case("gsm8k", f"#### {gold}", str(gold), completion, is_right, form, spelling)


def minerva_math() -> Iterator[Case]:
    for name in ("spellings", "pairs"):
        for line in (ROOT / "tests" / "data" / "answers" / f"{name}.jsonl").read_text().splitlines():
            pair = json.loads(line)
            x, gold = str(pair["answer"]), str(pair["gold"])
            completion = (
                f"{WORK} So it is $\\boxed{{{x}}}$.\nFinal Answer: The final answer is ${x}$. I hope it is correct."
            )
            yield Case("minerva_math", gold, gold, completion, bool(pair["same"]), "box and sentence", name)


def choices(task: str) -> Iterator[Case]:
    forms = {
        "sentence": "{work} The answer is {x}.",
        "answer tag": "<think>{work}</think>\n<answer>{x}</answer>",
        "sentence and tag": "<think>{work}</think>\nThe answer is {x}.\n<answer>{x}</answer>",
        "box": "{work} So the answer is $\\boxed{{{x}}}$.",
        "colon": "{work}\nAnswer: {x}",
    }
    for gold, text in zip("ABCD", OPTIONS, strict=True):
        other = "ABCD"[("ABCD".index(gold) + 1) % 4]
        spellings = {
            "(B)": (f"({gold})", True),
            "B": (gold, True),
            "B)": (f"{gold})", True),
            "**B**": (f"**{gold}**", True),
            "\\text{B}": (f"\\text{{{gold}}}", True),
            "Option B": (f"Option {gold}", True),
            "B: its text": (f"{gold}: {text}", True),
            "its text": (text, True),
            "another letter": (f"({other})", False),
            "two letters": (f"({gold}) or ({other})", False),
        }
        for form, template in forms.items():
            for spelling, (x, is_right) in spellings.items():
                completion = template.format(work=WORK, x=x)
                harness_gold = gold if task == "mmlu_pro" else f"({gold})"
                yield Case(task, harness_gold, gold, completion, is_right, form, spelling, OPTIONS)


def of_record(record: Path) -> Iterator[Case]:
    """The completions of an evaluation as GSM8K's, those to questions with an integer as the gold answer."""
    for line in (record / "samples.jsonl").read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        gold, completion = sample["answer"], sample["completion"]
        if not re.fullmatch(r"-?\d+", gold):
            continue
        numbers = re.findall(r"-?\d+(?:,\d{3})*(?:\.\d+)?", completion)
        is_right = bool(numbers) and float(numbers[-1].replace(",", "")) == float(gold)
        form = next((name for name, mark in MARKS.items() if mark in completion), "plain text")
        yield Case("gsm8k", f"#### {gold}", gold, completion, is_right, form, "a model's")


def harness_verdicts(cases: list[Case], environment: Path) -> list[dict[str, int]]:
    """What the harness decides, by its metric or filter."""
    python = environment / "bin" / "python"
    if not python.exists():
        print(f"installing lm-evaluation-harness into {environment}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(PEERS / "lm_eval.txt")], check=True)
    lines = "".join(json.dumps(asdict(case)) + "\n" for case in cases)
    script = [str(python), "-W", "ignore", str(PEERS / "lm_eval_scores.py")]
    done = subprocess.run(script, input=lines, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"lm-evaluation-harness has failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def own_verdicts(cases: list[Case]) -> list[dict[str, bool]]:
    """What r1 decides: of the stated answer, and with the task's lenient reading."""
    verdicts: list[dict[str, bool]] = []
    for task in dict.fromkeys(case.task for case in cases):
        part = [case for case in cases if case.task == task]
        verifier, reader = as_verifier(build_option("data/verifier", VERIFIERS[task])), READERS[task]
        rows = [{"prompt": "", "answer": case.answer, "options": case.options} for case in part]
        strict = verify_completions(verifier, [parse(case.completion).answer for case in part], rows)
        lenient = verify_completions(verifier, [lenient_answer(case.completion, reader) for case in part], rows)
        verdicts += [
            {"strict": bool(a), f"{reader} or strict": bool(a or b)} for a, b in zip(strict, lenient, strict=True)
        ]
    return verdicts


def cause(case: Case, own: bool, reading: str) -> str:
    """Why the two disagree, and whose verdict is that of the spelling."""
    right = "r1 is right" if own == case.is_right else "the harness is right"
    if reading == "strict" and parse(case.completion).answer is None:
        return f"form `{case.form}`, which r1 does not read strictly; {right}"
    if own == case.is_right and case.is_right:
        return f"form `{case.form}`, spelling `{case.spelling}`: the harness reads another answer or none; {right}"
    verdict = "accepts" if own else "refuses"
    return f"form `{case.form}`, spelling `{case.spelling}`: r1 {verdict} it; {right}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", nargs="?", type=Path, default=Path.home() / ".cache" / "r1" / "lm_eval")
    parser.add_argument("--record", type=Path, help="of an evaluation, whose completions are taken")
    parser.add_argument("--all", action="store_true", help="print every disagreement")
    args = parser.parse_args()
    tables = [gsm8k(), minerva_math(), choices("mmlu_pro"), choices("gpqa")]
    cases = list(chain.from_iterable([of_record(args.record)] if args.record else tables))
    harness, own = harness_verdicts(cases, args.environment), own_verdicts(cases)
    for task in dict.fromkeys(case.task for case in cases):
        rows = [(c, h, o) for c, h, o in zip(cases, harness, own, strict=True) if c.task == task]
        for metric in rows[0][1]:
            for reading in rows[0][2]:
                report(task, metric, reading, [(c, bool(h[metric]), o[reading]) for c, h, o in rows], args.all)


def report(task: str, metric: str, reading: str, rows: list[tuple[Case, bool, bool]], show_all: bool) -> None:
    differing = [(case, own) for case, verdict, own in rows if verdict != own]
    equal, total = Counter[str](), Counter(case.form for case, _, _ in rows)
    equal.update(case.form for case, verdict, own in rows if verdict == own)
    known = [sum(pair[i] == case.is_right for case, *pair in rows) for i in (0, 1)]
    print(
        f"\n{task}: lm-eval {metric}, r1 {reading}: {len(rows) - len(differing)} of {len(rows)} verdicts are equal "
        f"({1 - len(differing) / len(rows):.1%}); as is known of the spelling: lm-eval {known[0]}, r1 {known[1]}"
    )
    print("  by form: " + ", ".join(f"{form} {equal[form]}/{count}" for form, count in total.items()))
    examples = defaultdict(list)
    for case, own in differing:
        examples[cause(case, own, reading)].append(case)
    for why, count in Counter({why: len(some) for why, some in examples.items()}).most_common():
        print(f"  {count:4} {why}")
        for case in examples[why] if show_all else examples[why][:1]:
            print(f"         gold {case.answer!r}, completion ...{case.completion[-70:]!r}")


if __name__ == "__main__":
    main()
