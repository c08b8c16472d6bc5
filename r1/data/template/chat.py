"""The tokenizer's own chat template: the one that instruction-tuned models were trained with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import copy
from datetime import datetime
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1.core.errors import DATA, MODEL, UserError
from r1.data.completion import TAGS, text_after_thinking
from r1.data.conversation import Message, Prompt, Tools, as_messages, assistant_turns, with_system, without_weights
from r1.data.template.base import MARKER, opening, with_prefill, without_opening
from r1.model.chat import (
    TEMPLATE_DATE,
    Rendered,
    RenderJob,
    TemplateInputs,
    TemplateRefused,
    render,
    render_job,
    template_inputs,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK_TAGS = TAGS[:2]
REASONING_KEYS = frozenset(("reasoning_content", "reasoning", "thinking"))


class Chat:
    """Renders a question, a user's message or several messages, and opens the assistant's turn.

    Args:
        system: a system message before a question that has none, or None.
        prefill: what every completion starts with; prompt to the model, part of the completion to rewards.
        chat_template: a file with a Jinja template that replaces the tokenizer's; None: the tokenizer's own.
        chat_template_kwargs: variables of the template, by name; ``strftime_now`` is the date for one that writes it.

    Raises:
        UserError: the file cannot be read, or a variable is not the user's to set.
    """

    def __init__(
        self,
        *,
        system: str | None,
        prefill: str,
        chat_template: str | None,
        chat_template_kwargs: dict[str, Any] | None,
    ) -> None:
        self.system, self.own_text, self.prefill = system, system or "", prefill
        self.variables = check_variables(chat_template_kwargs or {})
        self.chat_template = None if chat_template is None else read_template(chat_template)

    def render(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, tools: Tools = None) -> str:
        """Raises: UserError: there is no chat template, or it refuses the messages."""
        return with_prefill(self.apply(tokenizer, as_messages(prompt), True, tools), self.prefill)

    def complete(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: str, tools: Tools = None) -> str:
        """The rest of the conversation as the template writes it, up to the token that closes the turn.

        A template may write a message with more around it than its generation prompt (channels, an empty thinking), and
        may leave the thinking out, as of an earlier turn; only then the completion is taken as it is.

        Raises:
            UserError: the conversation does not continue the prompt that the model gets, or changes the completion.
        """
        before = self.render(tokenizer, prompt, tools)
        opened = opening(before, self.prefill)
        rest = without_opening(completion, opened)
        after, closing = turn_end(self, tokenizer, str(tokenizer.chat_template))
        if not _thinks_again(before.removesuffix(opened), opened + rest):
            for message in (completion, opened + rest, rest):
                text = self.apply(tokenizer, [*as_messages(prompt), assistant(message)], False, tools)
                tail = text.removeprefix(before).removesuffix(after)
                if text == before + tail + after and _same_message(opened + tail, completion, rest):
                    return tail + closing
            head = self.apply(tokenizer, [*as_messages(prompt), assistant(MARKER)], False, tools).rpartition(MARKER)[0]
            text = self.apply(tokenizer, [*as_messages(prompt), assistant(completion)], False, tools)
            # DeepSeek-V3.1 writes the end of a thinking that it leaves out.
            continues = before in (head + opened, head.removesuffix(THINK_TAGS[1]) + opened)
            continues &= (opened + rest).count(THINK_TAGS[0]) <= max(1, completion.count(THINK_TAGS[0]))
            if continues and _squash(text_after_thinking(completion)) in _squash(text):
                return rest + closing
        raise UserError(
            "the chat template writes this answer in another way than the prompt opens it",
            key=".chat_template",
            value=completion,
            expected=f"a conversation that continues {before[-40:]!r}",
            hint="set prefill or chat_template_kwargs so that both agree, or take another chat_template",
        )

    def learned(
        self, tokenizer: PreTrainedTokenizerBase, messages: list[Message], tools: Tools, mask_history: bool
    ) -> Rendered:
        """The text of a conversation and the (start, end) of what is learned: the assistant's turns, each to its close.

        A template with ``{% generation %}`` marks them itself. Elsewhere a turn is what its conversation has behind its
        prompt, and the last one is ``complete``'s.

        Args:
            mask_history: only the last turn is learned.

        Raises:
            UserError: the template writes an earlier turn, or what precedes it, in another way than while it was last.
        """
        turns = assistant_turns(messages)[-1:] if mask_history else assistant_turns(messages)
        for i in turns:
            check_reasoning_written(messages[i], tokenizer)
        messages, last = without_weights(messages), turns[-1]
        marked = self.marked(tokenizer, messages, False, tools)
        if marked.spans is not None:
            if turns == assistant_turns(messages):
                return marked
            ends = [
                (self.num_marked(tokenizer, messages[:i], tools), self.num_marked(tokenizer, messages[: i + 1], tools))
                for i in turns
            ]
            return Rendered(marked.text, [span for start, end in ends for span in marked.spans[start:end]])
        before = self.render(tokenizer, messages[:last], tools)
        answer = messages[last]
        if answer.keys() == {"role", "content"}:
            text = before + self.complete(tokenizer, messages[:last], answer["content"], tools)
        else:
            text = "".join(self.turn(tokenizer, messages[: last + 1], tools))
        spans = [(len(before), len(text))]
        for i in reversed(turns[:-1]):
            head, tail, closing = self.turn(tokenizer, messages[: i + 1], tools)
            if not text.startswith(head + tail):
                raise _unstable(messages[i], i)
            end = len(head + tail)
            spans.insert(0, (len(head), end + _num_closing(text[end:], closing, _any_of(specials(tokenizer)))))
        return Rendered(text, spans)

    def num_marked(self, tokenizer: PreTrainedTokenizerBase, messages: list[Message], tools: Tools) -> int:
        """How many parts of a conversation's start the chat template marks as the assistant's."""
        return len(self.marked(tokenizer, messages, False, tools).spans or []) if messages else 0

    def turn(self, tokenizer: PreTrainedTokenizerBase, messages: list[Message], tools: Tools) -> tuple[str, str, str]:
        """The prompt of a conversation's last message, that message, and what closes it.

        Raises:
            UserError: the conversation does not continue the prompt.
        """
        head = self.apply(tokenizer, messages[:-1], True, tools)
        text = self.apply(tokenizer, messages, False, tools)
        if not text.startswith(head):
            raise _unstable(messages[-1], len(messages) - 1)
        after, closing = turn_end(self, tokenizer, str(tokenizer.chat_template))
        if text.endswith(after):
            return head, text[len(head) :].removesuffix(after), closing
        ends = [match.end() for match in re.finditer(_any_of(specials(tokenizer)), text)]  # a call closes otherwise
        return head, text[len(head) : max([end for end in ends if end > len(head)], default=len(text))], ""

    def with_variables(self, tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]) -> Chat:
        """Raises: UserError: the chat template reads no variable of that name."""
        return _with_variables(self, tokenizer, json.dumps(variables, sort_keys=True), str(tokenizer.chat_template))

    def end(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The last of the special tokens that the chat template writes right after an assistant's message, else EOS."""
        closing = turn_end(self, tokenizer, str(tokenizer.chat_template))[1]
        return [*re.finditer(_any_of(specials(tokenizer)), closing)][-1].group()

    def apply(
        self, tokenizer: PreTrainedTokenizerBase, messages: list[Message], opened: bool, tools: Tools = None
    ) -> str:
        """The text of a conversation; ``opened``: with the start of the assistant's next turn."""
        return self.marked(tokenizer, messages, opened, tools).text

    def jobs(self, tokenizer: PreTrainedTokenizerBase, messages: list[Message], tools: Tools) -> Iterator[RenderJob]:
        """Of a conversation the text before and after each of the assistant's turns, for ``render_batch``."""
        messages = with_system(messages, self.system)
        before, after = (self.inputs(tokenizer, opened, tools) for opened in (True, False))
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        for end in [*turns, len(messages)] if not turns or turns[-1] < len(messages) - 1 else turns:
            yield render_job(before, messages[:end])
        for end in turns:
            yield render_job(after, messages[: end + 1])

    def inputs(self, tokenizer: PreTrainedTokenizerBase, opened: bool, tools: Tools) -> TemplateInputs:
        if tools:
            return template_inputs(tokenizer, opened, self.variables, tools)
        return _template_inputs(self, tokenizer, opened, str(tokenizer.chat_template))

    def marked(
        self, tokenizer: PreTrainedTokenizerBase, messages: list[Message], opened: bool, tools: Tools
    ) -> Rendered:
        """``apply``'s text, with what the chat template marks in it as the assistant's."""
        if tokenizer.chat_template is None:
            raise UserError(
                "this model's tokenizer has no chat template",
                key="model.path",
                value=tokenizer.name_or_path or None,
                hint="data/template=r1_zero, the template for base models, or data.template.chat_template=FILE",
                code=MODEL,
            )
        messages = with_system(messages, self.system)
        try:
            return render(render_job(self.inputs(tokenizer, opened, tools), messages))
        except TemplateRefused as error:
            hint = "set system to null" if messages[0]["role"] == "system" else "data/template=r1_zero"
            raise UserError(error.message, key=".system", value=self.system, hint=hint, code=MODEL) from error
        except UserError as error:
            raise error.mounted_at(".chat_template") from None


@lru_cache(maxsize=64)
def _with_variables(chat: Chat, tokenizer: PreTrainedTokenizerBase, variables: str, _chat_template: str) -> Chat:
    """One object for all rows with the same variables, since ``turn_end`` keeps what it has found of each."""
    other = copy(chat)
    try:
        own = check_variables(json.loads(variables))
        check_variables_read(own, tokenizer)
    except UserError as error:
        message, hint = f"a row's `chat_template_kwargs`: {error.message}", "null reads no such column"
        key = ".columns.chat_template_kwargs"
        raise UserError(message, key=key, value=variables, hint=hint, code=DATA) from None
    other.variables = chat.variables | own
    return other


@lru_cache(maxsize=64)
def _template_inputs(
    chat: Chat, tokenizer: PreTrainedTokenizerBase, opened: bool, _chat_template: str
) -> TemplateInputs:
    return template_inputs(tokenizer, opened, chat.variables)


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _num_closing(following: str, closing: str, special: str) -> int:
    """Characters of what closes an earlier turn: of ``closing`` as much as follows, else the special token that does.

    gpt-oss closes the last turn with another token than the earlier ones, GLM 4 with the next message's.
    """
    closers = (closing[: match.end()] for match in re.finditer(special, closing))
    first = re.match(special, following)
    return max((len(c) for c in closers if following.startswith(c)), default=first.end() if first else 0)


def _unstable(message: Message, index: int) -> UserError:
    return UserError(
        f"the chat template writes message {index + 1} of a conversation in another way once others follow it, so no "
        "one text has each answer behind its prompt",
        key=".chat_template",
        value=message["content"],
        expected="a template that writes a turn once, or that marks the assistant's with {% generation %}",
        hint="stage.mask_history=true learns the last answer alone; or set chat_template to a file for training",
        code=DATA,
    )


@lru_cache(maxsize=16)
def turn_end(chat: Chat, tokenizer: PreTrainedTokenizerBase, _chat_template: str) -> tuple[str, str]:
    """All text that the chat template writes after an assistant's message, and the part of it that closes the turn.

    That part ends with the first special tokens that follow each other, or is EOS where there are none.

    Args:
        _chat_template: the tokenizer's, so that the cache has an entry for each.
    """
    after = chat.apply(tokenizer, [*as_messages("?"), assistant(MARKER)], False).rpartition(MARKER)[2]
    ended = re.search(f"(?:{_any_of(specials(tokenizer))})+", after)
    return after, after[: ended.end()] if ended else eos(tokenizer)


def _same_message(written: str, completion: str, rest: str) -> bool:
    """Whether a turn has all of the completion, space aside, and thinks where that does.

    Templates may open the thinking that a completion only closes, and write an empty one where there is none.
    """
    if written == completion:
        return True
    opened, closed = (completion.count(tag) for tag in THINK_TAGS)
    num_open, num_closed = (written.count(tag) for tag in THINK_TAGS)
    is_plain = opened == closed == 0
    return _squash(rest) in _squash(written) and num_open <= max(1, opened) and num_closed <= max(is_plain, closed)


def _thinks_again(before: str, completion: str) -> bool:
    """Whether a completion thinks though the prompt has an empty thinking, as with ``enable_thinking: false``."""
    return before.rstrip().endswith(THINK_TAGS[1]) and any(tag in completion for tag in THINK_TAGS)


def _squash(text: str) -> str:
    return "".join(text.split())


def _any_of(tokens: list[str]) -> str:
    return "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))


def read_template(path: str) -> str:
    """Raises: UserError: there is no such file, or it is not text."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        message = f"the chat template cannot be read: {error}"
        raise UserError(message, key=".chat_template", value=path, expected="a file with a Jinja template") from None


def check_variables(variables: dict[str, Any]) -> dict[str, Any]:
    """Raises: UserError: r1 or transformers sets a variable itself, or the date is none."""
    from transformers import PreTrainedTokenizerBase

    key, own = ".chat_template_kwargs", {"messages", *signature(PreTrainedTokenizerBase.apply_chat_template).parameters}
    if reserved := sorted(own & variables.keys()):
        raise UserError(f"no config sets the template's `{reserved[0]}`", key=key, value=variables, hint="leave it out")
    try:
        datetime.fromisoformat(variables.get("strftime_now", TEMPLATE_DATE))
    except (TypeError, ValueError):
        message, value = "strftime_now is the date that the template formats", variables["strftime_now"]
        raise UserError(message, key=f"{key}.strftime_now", value=value, expected="YYYY-MM-DD") from None
    return variables


def check_variables_read(variables: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises: UserError: the tokenizer's chat template does not read one of them."""
    text = tokenizer.get_chat_template()
    for name in variables:
        if not re.search(rf"\b{re.escape(name)}\b", text):
            raise UserError(
                f"the chat template does not read the variable `{name}`",
                key=f".chat_template_kwargs.{name}",
                value=variables[name],
                hint="leave it out, or take a chat_template that does",
            )


def check_reasoning_written(message: Message, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises: UserError: the chat template does not read the key that holds an answer's thinking."""
    for key in REASONING_KEYS & message.keys():
        if not re.search(rf"\b{key}\b", str(tokenizer.chat_template)):
            raise UserError(
                f"the chat template leaves out the `{key}` of an answer, which would be learned without its thinking",
                key=".chat_template",
                value=message[key],
                hint="write it into the content, <think>...</think>, or take a chat_template that reads it",
                code=DATA,
            )


def specials(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """All special tokens, those outside the named roles (eos, bos, ...) included."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*tokenizer.all_special_tokens, *added})


def eos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's end-of-sequence token. Raises: UserError: it has none."""
    if not isinstance(tokenizer.eos_token, str):
        raise UserError(
            "this model's tokenizer has no end-of-sequence token, so no completion could ever end",
            key="model.path",
            value=tokenizer.name_or_path or None,
            code=MODEL,
        )
    return tokenizer.eos_token
