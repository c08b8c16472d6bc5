"""Every reader of text from outside takes time linear in its length, on 40 kinds of hostile text.

Which modules need a reader follows from their source: all that use a regular expression or parse JSON or YAML, but for
those listed with a reason. Which have one follows from running the readers.
"""

from __future__ import annotations

import ast
import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from r1.config.interpolation import resolved_sizes
from r1.core import jsonl
from r1.core.console import strip_control_chars
from r1.core.errors import UserError
from r1.core.malloc import tune_malloc
from r1.core.override_text import override_value, path_value
from r1.core.secrets import redact
from r1.core.yaml import ConfigLoader, UniqueKeyLoader
from r1.data import arithmetic, dapo_math, decontamination, files, gsm8k, lenient, text, tiny_open
from r1.data.completion import boxed, normalise, parse
from r1.data.conversation import with_conversations
from r1.data.template.base import template_prefill, without_opening
from r1.data.verifier import choice, code, code_tests, countdown, exact, guard, notation
from r1.data.verifier.instructions import Instructions
from r1.reward.rubric import Rubric
from r1.reward.terms import duplicates, repetition
from r1.stage.validation import readability
from r1.teacher import procedural
from r1.teacher.api.openai_response import error_message, read_answer
from r1.teacher.base import Failure

ERRORS = (UserError, yaml.YAMLError, ValueError, Failure)  # with which a reader may refuse a text
OPEN_QUESTION = tiny_open.open_question([1, 2])


def of_bytes(read: Callable[[bytes], object]) -> Callable[[str], object]:
    return lambda s: read(s.encode(errors="replace"))


def reply(content: str) -> bytes:
    message = {"content": content, "reasoning": content}
    return json.dumps({"choices": [{"message": message}], "usage": {"prompt_tokens": content}}).encode()


INSTRUCTIONS: dict[str, dict[str, object]] = {
    "keywords:forbidden_words": {"forbidden_words": ["sun"]},
    "language:response_language": {"language": "es"},
    "length_constraints:number_sentences": {"num_sentences": 3, "relation": "at least"},
    "length_constraints:number_words": {"num_words": 3, "relation": "at least"},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "a"},
    "detectable_content:number_placeholders": {"num_placeholders": 3},
    "detectable_content:postscript": {"postscript_marker": "P.P.S"},
    "detectable_format:number_bullet_lists": {"num_bullets": 3},
    "detectable_format:number_highlighted_sections": {"num_highlights": 3},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 3},
    "detectable_format:json_format": {},
    "detectable_format:title": {},
    "change_case:capital_word_frequency": {"capital_frequency": 3, "capital_relation": "at least"},
}
INSTRUCTED = {"instruction_id_list": [*INSTRUCTIONS], "kwargs": [*INSTRUCTIONS.values()]}
RUBRIC = Rubric("r", 0, 10, max_chars=1 << 24, seed=0)
READERS: dict[str, Callable[[str], object]] = {
    "parse": parse,
    "parse a block": lambda s: parse(f"<think>x</think><answer>{s}</answer>"),
    "parse a box": lambda s: parse(f"\\boxed{{{s}}}"),
    "boxed": boxed,
    "normalise": normalise,
    "canonical": notation.canonical.__wrapped__,  # without its cache, which makes a second call free
    "value": exact.value,
    "guard": guard.guard,
    "balanced": guard.balanced,
    "words": text.words,
    "calculator": lambda s: gsm8k.CALCULATOR.sub("", s),
    "prefill": template_prefill,
    "without opening": lambda s: without_opening(s, "<think>\n"),
    "quote": RUBRIC.sanitize,
    "judge prompt": lambda s: RUBRIC.prompt(s, s),
    "judge score": RUBRIC.score,
    "repetition": lambda s: repetition.repeated_share(s, 3),
    "duplicates": lambda s: duplicates.ngrams(s, 3),
    "consistency": readability.consistency,
    "num_reflections": readability.num_reflections,
    "redact": redact,
    "control characters": strip_control_chars,
    "error body": of_bytes(error_message),
    "reply": lambda s: read_answer(reply(s)),
    "reply's body": of_bytes(read_answer),
    "record's config": lambda s: yaml.load(s, ConfigLoader),
    "quoted YAML": lambda s: yaml.load(f'a: "{s}"', ConfigLoader),
    "sweep file": lambda s: yaml.load(s, UniqueKeyLoader),
    "interpolations": lambda s: resolved_sizes({"a": "${" + s, "b": "${a}" + s}),
    "path": path_value,
    "override": lambda s: override_value({s: [s]}),
    "error screen": lambda s: str(UserError(s, key="a", value=s, hint=s, expected=s)),
    "row of a file": of_bytes(files.parse_row),
    "row of a record": lambda s: json.loads(jsonl.row_to_line({"a": s})),
    "DAPO's question": lambda s: dapo_math.dapo_row({"prompt": f"{s}x"}, ""),
    "conversation": lambda s: with_conversations({"messages": [{"role": "user", "content": s}], "tools": s}),
    "sum": lambda s: arithmetic.row_from_sum(f"1+{s}=?"),
    "open question": tiny_open.row_from_open_question,
    "quality": lambda s: tiny_open.quality(OPEN_QUESTION, f"<think>{s}</think>\n<answer>3</answer>"),
    "working": tiny_open.parse_working,
    "countdown": lambda s: countdown.countdown(s, {"prompt": "", "answer": "3", "numbers": [1, 2], "target": 3}),
    "choice": lambda s: choice.letters(s, ["12 m/s", "A and B"]),
    "last number": lenient.last_number,
    "last letter": lenient.last_letter,
    "instructions": lambda s: Instructions(mode="loose", partial_credit=False).followed(s, INSTRUCTED),
    "ten words": decontamination.sequence_hashes,
    "corrupt answer": procedural.corrupt_answer,
    "program": code.program,
    "program in its fence": lambda s: code.program(f"```python\n{s}\n```"),
    "tests of a program": code_tests.read_tests,
    "tests of a function": lambda s: code_tests.read_tests(json.dumps({"inputs": [s], "outputs": [s], "fn_name": "f"})),
    "output of a program": lambda s: code_tests.same_text(s + "1.5", s + "2.5"),
}
KINDS = [
    *("(", "[", "{", "<", ")", "}", "([{<", "(!", "\\", "\\\\x", "\u0300\u0316", "\u0344", "e\u0301\u0323"),
    *("\u1100\u1161", "\\boxed{", "\\boxed ", "\\boxed{1}", " ", "\n", " \n", "\t,", "1", "1.", "1,234,"),
    *("123 ", "1=2 ", ",", "^", "^{2", "'", '"', "`", "```", "<think>", "</think>", "<answer>", "</answer>"),
    *("\u200b", "\U0001f600", "\u4e2d", "a", "a ", "$", "$1$", "\\frac", "\\frac{1}{", "\\(", "\\["),
    *("\\text{", "\\begin{cases}", "(score", "score ", "[score]", "wait ", "0.3...", "_", "|", "key="),
    *("{key: ", "https://a:b", "-", "1+", "+-", "&", "~", "\ufdfa", "\xbd", "\x00", "\x1b[", "\u202e"),
    *("\uff12", "<<", "<score>1", "a:\n ", "&a *a ", "\u2028", "\u0663", "one hundred ", "token=a ", "${a.", "{% "),
]  # fmt: skip
QUICK = ["(", "\u0300\u0316", "\\boxed{", " ", "1,234,", "(score", "\\frac{1}{", "<think>"]
MAX_RATIO = 6.0  # of the times for 4n and n characters
LEAST_S = 0.02  # less is noise


@pytest.fixture(autouse=True, scope="module")
def memory_as_in_a_run() -> None:
    """Page faults, which begin at some size, are no part of a reader's time."""
    tune_malloc()


def grown(unit: str, size: int) -> str:
    return unit * (size // len(unit))  # no unit is cut: what is not closed may be skipped at once


def seconds(read: Callable[[str], object], value: str) -> float:
    times = []
    gc.disable()  # as timeit does: a collection walks over the objects of all modules
    try:
        for _ in range(3):
            started = time.process_time()
            with suppress(*ERRORS):
                read(value)
            times.append(time.process_time() - started)
            if times[-1] > 0.2:  # far above noise
                break
    finally:
        gc.enable()
    return min(times)


def assert_linear(read: Callable[[str], object], unit: str, most: int) -> None:
    size, before = 1 << 12, float("inf")
    while size <= most:
        current = seconds(read, grown(unit, size))
        most_s = MAX_RATIO * max(before, LEAST_S / 4)  # a lower time before is noise
        if current > most_s:  # a busy machine: the least of two more looks counts
            current = min(current, seconds(read, grown(unit, size)), seconds(read, grown(unit, size)))
        assert current <= most_s, f"{size} of {unit!r}"
        size, before = 4 * size, current


@pytest.mark.parametrize("reader", READERS)
def test_reader_takes_linear_time_on_hostile_text(reader: str) -> None:
    for unit in QUICK:
        assert_linear(READERS[reader], unit, 1 << 16)


@pytest.mark.long
@pytest.mark.parametrize("reader", READERS)
def test_reader_takes_linear_time_on_all_kinds_up_to_a_megabyte(reader: str) -> None:
    assert len(KINDS) >= 40
    for unit in KINDS:
        assert_linear(READERS[reader], unit, 1 << 20)


# Modules that use a pattern or a parser, and whose texts are none from outside or are bounded.
BOUNDED = {
    "r1/__main__.py": "the first lines of r1's own modules",
    "r1/data/verifier/": "answers behind the guard, at most 1000 characters, in a process that is killed",
    "r1/config/": "names and overrides of the command line, which the system bounds, and r1's own conf/",
    "r1/rescore.py": "names and overrides of the command line, which the system bounds",
    "r1/core/worker": "messages of r1's own processes",
    "r1/distributed/": "messages of r1's own processes",
    "r1/logger/wandb_run/": "messages of r1's own processes",
    "r1/train/rank.py": "messages of r1's own processes",
    "r1/core/content_hash.py": "JSON of r1's own cache",
    "r1/core/files.py": "names of files",
    "r1/core/inputs.py": "names of files",
    "r1/core/manifest.py": "JSON, whose parser is linear",
    "r1/core/model_paths.py": "JSON of a model folder",
    "r1/core/runs.py": "reads with ConfigLoader",
    "r1/core/storage.py": "messages of the system",
    "r1/core/secret_rules.py": "the tables of `redact`, above",
    "r1/data/verifier/code_": "outputs of a program, which are read until its time is over; the tests are read above",
    "r1/data/dataset.py": "names of evaluation sets on the command line",
    "r1/data/multiple_choice.py": "names of columns",
    "r1/data/gsm8k.py": "the pattern of a calculator is read above",
    "r1/data/mapping.py": "names of columns and templates of a config",
    "r1/data/origin.py": "names of files, and messages of the hub",
    "r1/data/store.py": "JSON of r1's own cache",
    "r1/data/template/chat.py": "the template's own special tokens; the template runs in a process that is killed",
    "r1/data/traces.py": "JSON, whose parser is linear",
    "r1/experiment/launch.py": "reads with ConfigLoader",
    "r1/experiment/pipeline/": "names of steps and keys on the command line",
    "r1/experiment/sweep/": "names in a sweep file, which UniqueKeyLoader has read",
    "r1/model/": "JSON of a model folder, and names of layers",
    "r1/rollout/": "JSON of a server, at most MAX_REPLY_BYTES, and one line of vLLM's source",
    "r1/stage/distillation/": "JSON, whose parser is linear",
    "r1/sweep.py": "names on the command line",
    "r1/teacher/openai.py": "names on the command line",
    "r1/train/checkpoint_files.py": "JSON, whose parser is linear",
}
PARSERS = ("json.loads", "yaml.load", "yaml.safe_load")


def reads_text(file: Path) -> bool:
    """Whether a module's source uses a regular expression or a parser."""
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return any(call in PARSERS or (call.startswith("re.") and call != "re.escape") for call in calls)


def modules_of_the_readers() -> set[str]:
    """The files of all functions that the readers call."""
    called = set[str]()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            called.add(frame.f_code.co_filename)

    for read in READERS.values():
        sys.setprofile(note)
        try:
            read("a (score 3) \\boxed{1} <think>x</think> key=1")
        except ERRORS:
            continue
        finally:
            sys.setprofile(None)
    return called


def test_each_module_that_reads_text_has_a_reader_or_a_reason() -> None:
    root, covered = Path(__file__).parent.parent, modules_of_the_readers()
    reading = [file for file in (root / "r1").rglob("*.py") if reads_text(file) and str(file) not in covered]
    names = [file.relative_to(root).as_posix() for file in reading]
    assert [name for name in names if not name.startswith(tuple(BOUNDED))] == []
