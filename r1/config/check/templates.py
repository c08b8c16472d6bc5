"""The template against the tokenizer: nothing is ignored, and prompt, completions and rewards agree on the thinking."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from r1.core.errors import DATA, UserError, errors_mounted_at
from r1.core.runs import is_record
from r1.core.types import Config
from r1.data.base import Row, Template
from r1.data.completion import TAGS, text_after_thinking
from r1.data.conversation import Message, as_messages
from r1.data.rows import Rows
from r1.data.store import remembered
from r1.data.template.base import opening, template_prefill
from r1.data.template.chat import Chat, check_variables_read
from r1.reward.terms.self_judge import SelfJudge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from r1.config.build import Experiment

OPEN, CLOSE = TAGS[:2]
ESCAPE = re.compile(r"\\n(?![a-z])")  # \nabla is TeX


def check_templates(experiment: Experiment) -> None:
    """Check the template of each dataset on its first held-out question, and the variables of a judge.

    Raises:
        UserError: a setting has no effect, or the thinking is opened twice or where rewards do not see it.
    """
    data, tokenizer = experiment.data, experiment.stage.tokenizer
    for key, source in data.sources.items():
        row = source.val[0]
        template = data.template_of(tokenizer, row | {"part": key.rpartition(".")[2]})
        with errors_mounted_at(f"{key}.template"):
            rendered = template.render(tokenizer, source.question(row), row.get("tools"))
            for message in as_messages(source.question(row)):
                _check_message(rendered, message)
            if isinstance(source.template, Chat):
                _check_settings(source.template, tokenizer, rendered)
            _check_prefill(f"{key}.template", source.template, rendered)
    for name, term in experiment.rewards.terms.items():
        if isinstance(term.function, SelfJudge):
            with errors_mounted_at(f"reward.terms.{name}"):
                check_variables_read(term.function.variables, tokenizer)


def check_completions(experiment: Experiment) -> None:
    """Raises: UserError: a prompt opens the thinking, and a completion to learn neither opens nor closes it."""
    stage, data = experiment.stage, experiment.data
    rows = data.train.with_value("completion") if "completion" in stage.required_columns else Rows.of([])
    opens = {key: OPEN in _opened(source.template, stage.tokenizer) for key, source in data.sources.items()}

    def is_unclosed(row: Row) -> bool:
        opened = opens[data.source_of(row)[0]] and CLOSE not in row["completion"]
        return opened and CLOSE not in data.completion_text(stage.tokenizer, row)

    def find_unclosed() -> list[int]:
        return [i for i, row in enumerate(rows) if is_unclosed(row)]

    if any(opens.values()) and (
        indices := remembered(rows, lambda: ["unclosed thinking", experiment.identity("data")], find_unclosed)
    ):
        unclosed = rows.select(indices)
        key = data.source_of(unclosed[0])[0]
        raise UserError(
            f"the prompt opens the thinking, and {len(unclosed)} of {len(rows)} completions never close it",
            key=f"{key}.template.prefill",
            value=unclosed[0]["completion"],
            expected=f"completions with {CLOSE}",
            hint="leave these rows out, write their thinking, or take a template and a prefill that do not open it",
            code=DATA,
        )


def unread_forms(cfg: Config, experiment: Experiment) -> Iterator[str]:
    """A warning for each dataset whose questions do not ask a chat model for a form that is read as an answer.

    Models that r1 has trained, or ships, have learned the form.
    """
    stage, path = experiment.stage, cfg["model"]["path"]
    if stage.val_columns or path is None or path.startswith("r1:") or is_record(Path(path)):
        return
    for key, source in experiment.data.sources.items():
        answered = source.val.with_value("answer")
        if not answered or not isinstance(source.template, Chat):
            continue
        if not any(form in source.prompt_text(stage.tokenizer, answered[0]) for form in (*TAGS[2:], "boxed")):
            yield (
                f"warning: {key}: no question asks for <answer>...</answer> or \\boxed{{...}}, and an answer in "
                f"another form is wrong: set {key}.instruction, for example 'Put the final answer within \\boxed{{}}.'"
            )


def _opened(template: Template, tokenizer: PreTrainedTokenizerBase) -> str:
    return opening(template.render(tokenizer, "?"), template.prefill)


def _check_message(rendered: str, message: Message) -> None:
    """The template must show the question and what comes before it; an earlier answer may lose its thinking."""
    if not _shows(
        rendered, text_after_thinking(message["content"]) if message["role"] == "assistant" else message["content"]
    ):
        what = "question" if message["role"] == "user" else f"{message['role']}'s message"
        error = f"the template does not show the {what} to the model"
        raise UserError(error, key=".chat_template", value=message["content"])


def _check_settings(template: Chat, tokenizer: PreTrainedTokenizerBase, rendered: str) -> None:
    """The chat template must write the system message and read every variable."""
    if template.system and not _shows(rendered, template.system):
        message = "the chat template leaves the system message out"
        raise UserError(message, key=".system", value=template.system, hint="set system to null")
    check_variables_read(template.variables, tokenizer)


def _shows(rendered: str, text: str) -> bool:
    """Whether a text is in the prompt; templates may trim it."""
    return text.strip() in rendered


def _check_prefill(key: str, template: Template, rendered: str) -> None:
    """A tag that the template opens is never in a completion: ``prefill`` must name it, so that rewards count it."""
    if ESCAPE.search(template.prefill):
        raise UserError(
            "the prefill holds a backslash and an n, which is no line break",
            key=f"{key}.prefill",
            value=template.prefill,
            expected="text with real line breaks",
            hint='leave it out at the end, where the template\'s own counts; in a YAML file, "..." reads \\n',
        )
    opened = template_prefill(rendered.removesuffix(template.prefill)).strip()
    if opened and opened not in template.prefill:
        raise UserError(
            f"the prompt ends with {opened}, so no completion can contain it and a format reward would stay at 0",
            key=f"{key}.prefill",
            value=template.prefill,
            expected=repr(opened + template.prefill),
            hint=f"""{key}.prefill="'{opened}{template.prefill}'" makes it count as part of each completion""",
        )
    if OPEN in template.prefill and rendered.removesuffix(opening(rendered, template.prefill)).rstrip().endswith(CLOSE):
        raise UserError(
            "the chat template writes an empty thinking, after which the prefill opens another one",
            key=f"{key}.prefill",
            value=template.prefill,
            hint="leave the prefill empty, or set enable_thinking in chat_template_kwargs",
        )
