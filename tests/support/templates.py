"""Chat templates of the public kinds, written small: each renders a question and an answer as the models' own do.

And tokenizers of five kinds, trained on a few lines.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from r1.data.template.chat import Chat
from r1.model.chat import TEMPLATE_DATE

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Qwen 3 writes the thinking of the last turn anew, and an empty one where there is none.
QWEN3 = """
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set content, thinking = m.content, '' %}
        {%- if '</think>' in content %}
            {%- set thinking = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n<think>\n' + thinking.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\n' + m.content }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
# DeepSeek-R1 drops the thinking of every turn, and opens the next one's; its older revision does not open it.
DEEPSEEK_OLD = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '</s>' }}"
    "{% else %}{{ ('<|User|>' if m.role == 'user' else '') + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}"
)
# DeepSeek-V3.1 closes a thinking before every answer, and opens one only if the variable says so.
DEEPSEEK31 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|Assistant|></think>' + m.content.split('</think>')[-1] + '</s>' }}"
    "{% else %}{{ '<|User|>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>' + ('<think>' if thinking else '</think>') }}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if date_string is not defined %}
    {%- set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' }}
{%- if messages[0].role == 'system' %}
    {{- messages[0].content }}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|eot_id|>' }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
TEMPLATES = {
    "qwen2.5": "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}" + CHATML,
    "qwen3": QWEN3,
    "qwen3_thinking": QWEN3.replace("{{- '<|im_start|>assistant\n' }}", "{{- '<|im_start|>assistant\n<think>\n' }}"),
    "llama2": "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama3": LLAMA3,
    "mistral": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "gemma": "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "phi3": "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "phi4_mini": "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
    "deepseek_r1_old": DEEPSEEK_OLD,
    "deepseek_r1": DEEPSEEK_OLD.replace("{{ '<|Assistant|>' }}{% endif", "{{ '<|Assistant|><think>\n' }}{% endif"),
    "smollm2": "{% if messages[0].role != 'system' %}<|im_start|>system\nI am SmolLM.<|im_end|>\n{% endif %}" + CHATML,
    "smollm3": "<|im_start|>system\nToday Date: {{ strftime_now('%d %B %Y') }}<|im_end|>\n" + CHATML,
    "gpt_oss": "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}\n\nReasoning: "
    "{{ reasoning_effort or 'medium' }}<|end|>{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
    "cohere": "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>{% if m.role == 'assistant' %}"
    "{{ '<|CHATBOT_TOKEN|><|START_RESPONSE|>' + m.content + '<|END_RESPONSE|>' }}{% else %}"
    "{{ '<|USER_TOKEN|>' + m.content }}{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    "glm4": "[gMASK]<sop>{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set parts = m.content.split('</think>') %}"
    "{{ '<|assistant|>\n<think>' + (parts[0].split('<think>')[-1].strip() if parts | length > 1 else '') + '</think>\n'"
    " + parts[-1].strip() }}{% else %}{{ '<|' + m.role + '|>\n' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "mistral_v7": "{{ bos_token }}[SYSTEM_PROMPT]Today is {{ strftime_now('%Y-%m-%d') }}.[/SYSTEM_PROMPT]"
    "{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' if m.role == 'user' else m.content + eos_token }}"
    "{% endfor %}",
    "phi4": "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    "granite": "{% for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content }}"
    "{{ '<|end_of_text|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
    "olmo2": "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|assistant|>\n' }}{% endif %}",
    "command_r": "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>"
    "{{ '<|CHATBOT_TOKEN|>' if m.role == 'assistant' else '<|USER_TOKEN|>' }}{{ m.content.strip() }}"
    "<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    "vicuna": "{{ bos_token }}{% for m in messages %}{{ 'USER: ' + m.content + ' ' if m.role == 'user' else"
    " 'ASSISTANT: ' + m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
    "zephyr": "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "opens_thinking": "{% for m in messages %}{{ 'User: ' + m.content + '\n' if m.role == 'user' else"
    " 'Assistant: ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: <think>\n' }}{% endif %}",
    "writes_the_opening": "{% for m in messages %}{{ 'User: ' + m.content + '\n' if m.role == 'user' else"
    " 'Assistant: <think>\n' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: <think>\n' }}{% endif %}",
}  # fmt: skip
NAMED = {token for text in TEMPLATES.values() for token in re.findall(r"<\|\w+\|>|\[/?\w+\]|<\w+_of_turn>", text)}
SPECIALS = ["<unk>", "<s>", "</s>", "<sop>", *sorted(NAMED | {"<|user|>", "<|assistant|>", "<|system|>"})]
CORPUS = [
    "What is 3+5=? User: system model\nLet me think.\n\nThe answer is \\boxed{8}.",
    "<think> 3 plus 5 is 8.</think>\n<answer>8</answer>",
    "You are a helpful assistant. Today Date: 26 Jul 2024, 等等 é",
] * 30
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(specials: list[str]) -> Tokenizer:
    """Byte-level BPE: GPT-2, Llama 3, Qwen."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(CORPUS, _trainer("Bpe", 500, specials, initial_alphabet=alphabet))
    return core


def sentencepiece(specials: list[str]) -> Tokenizer:
    """SentencePiece BPE with a dummy prefix, written as a normaliser, with byte fallback: Llama 2."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.train_from_iterator(CORPUS, _trainer("Bpe", 700, [*specials, *BYTES]))
    return core


def metaspace(specials: list[str]) -> Tokenizer:
    """The same with a pre-tokenizer and without splitting at words: Mistral, Gemma."""
    core = sentencepiece(specials)
    core.normalizer = None  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    return core


def unigram(specials: list[str]) -> Tokenizer:
    """Unigram, a mark before each word, compatibility characters folded: T5, XLM-R."""
    core = Tokenizer(models.Unigram())
    core.normalizer, core.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.train_from_iterator(CORPUS, _trainer("Unigram", 300, specials, unk_token="<unk>"))
    return core


def wordpiece(specials: list[str]) -> Tokenizer:
    """WordPiece, lower case, no white space: BERT."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(CORPUS, _trainer("WordPiece", 400, specials))
    return core


TOKENIZERS = {kind.__name__: kind for kind in (byte_level, sentencepiece, metaspace, unigram, wordpiece)}


def _trainer(kind: str, vocab_size: int, specials: list[str], **options: Any) -> Any:
    trainer = getattr(trainers, f"{kind}Trainer")
    return trainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False, **options)


def tokenizer_of(core: Tokenizer, template: str) -> PreTrainedTokenizerFast:
    """A trained tokenizer with a chat template; EOS is ``</s>``."""
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **roles)


class TemplateDay(datetime):
    """The day of r1's prompts, in transformers' own rendering: patch its module's ``datetime``."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.fromisoformat(TEMPLATE_DATE)


def chat(**knobs: Any) -> Chat:
    """The tokenizer's own chat template, as conf/data/template/chat.yaml has it."""
    return Chat(**{"system": None, "prefill": "", "chat_template": None, "chat_template_kwargs": None} | knobs)
