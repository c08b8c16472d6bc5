import pytest
from templates import chat
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from r1.core.errors import MODEL, UserError
from r1.data.base import Data
from r1.data.template.base import template_prefill, with_prefill
from r1.data.template.few_shot import FewShot
from r1.data.template.r1_zero import R1Zero
from r1.data.verifier.exact import exact

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def tokenizer(chat_template=None, adds_bos=False, eos="</s>"):
    words = ["a", "Q", ":", "?", "user", "assistant"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIALS + words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(SPECIALS)
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token=eos, chat_template=chat_template
    )


def test_chat_renders_the_tokenizers_template():
    rendered = chat().render(tokenizer(CHATML), "1+1?")
    assert rendered == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"


def test_chat_puts_system_and_prefill_around():
    rendered = chat(system="Think.", prefill="<think>\n").render(tokenizer(CHATML), "1+1?")
    assert rendered == (
        "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


@pytest.mark.parametrize("prefill", ["<think>\n", "<think>"])
def test_chat_does_not_open_the_thinking_twice(prefill):
    rendered = chat(prefill=prefill).render(tokenizer(THINKING), "1+1?")
    assert rendered.count("<think>") == 1
    assert rendered.endswith("assistant\n<think>\n")


def test_chat_end_is_the_turns_closing_token_not_eos():
    assert chat().end(tokenizer(CHATML)) == "<|im_end|>"
    assert chat(system="Think.", prefill="<think>").end(tokenizer(THINKING)) == "<|im_end|>"


def test_chat_end_is_the_last_of_special_tokens_that_follow_each_other():
    both = CHATML.replace("<|im_end|>", "</s><|im_end|>")
    assert chat().end(tokenizer(both)) == "<|im_end|>"
    assert chat().complete(tokenizer(both), "Q", "a") == "a</s><|im_end|>"


def test_chat_end_is_not_a_special_token_behind_other_text():
    further = CHATML + "{% if not add_generation_prompt %}</s>{% endif %}"
    assert chat().end(tokenizer(further)) == "<|im_end|>"
    assert chat().complete(tokenizer(further), "Q", "a") == "a<|im_end|>"


def test_chat_end_falls_back_to_eos():
    assert chat().end(tokenizer(PLAIN)) == "</s>"


@pytest.mark.parametrize("ask", [lambda chat, tok: chat.render(tok, "1+1?"), lambda chat, tok: chat.end(tok)])
def test_no_chat_template_is_a_user_error(ask):
    with pytest.raises(UserError, match="data/template=r1_zero") as caught:
        ask(chat(), tokenizer())
    assert (caught.value.code, caught.value.key) == (MODEL, "model.path")


def test_a_refused_system_message_is_a_user_error():
    with pytest.raises(UserError, match=r"no system role(.|\n)*set system to null"):
        chat(system="Think.").render(tokenizer(NO_SYSTEM), "1+1?")


def test_no_eos_is_a_user_error():
    with pytest.raises(UserError, match="no end-of-sequence token"):
        R1Zero(text="{prompt}", prefill="").end(tokenizer(eos=None))


def test_r1_zero_renders_its_text():
    template = R1Zero(text='{"q": {prompt}} Assistant:', prefill=" <think>")
    assert template.render(tokenizer(), "{prompt} {0}") == '{"q": {prompt} {0}} Assistant: <think>'
    assert template.end(tokenizer(CHATML)) == "</s>"


def test_r1_zero_writes_bos_only_if_the_tokenizer_would():
    template = R1Zero(text="Q: {prompt}", prefill="")
    assert template.render(tokenizer(), "a") == "Q: a"
    assert template.render(tokenizer(adds_bos=True), "a") == "<s>Q: a"


def test_bos_is_in_the_prompt_ids_once():
    data = Data(train=[], val=[], template=R1Zero(text="Q : {prompt}", prefill=""), verifier=exact)
    tok = tokenizer(adds_bos=True)
    assert data.prompt_ids(tok, {"prompt": "a"}).count(tok.bos_token_id) == 1


def test_r1_zero_must_show_the_question():
    with pytest.raises(UserError, match=r"never shows the question(.|\n)* \.text"):
        R1Zero(text="Question:", prefill="")


def test_a_learned_completion_ends_with_the_templates_token():
    data = Data(train=[], val=[], template=chat(prefill="a"), verifier=exact)
    tok = tokenizer(CHATML)
    _, learned, _ = data.example(tok, {"prompt": "Q", "completion": "a ? user"})
    assert tok.convert_ids_to_tokens(learned) == ["?", "user", "<|im_end|>"]


@pytest.mark.parametrize(
    ("rendered", "opened"),
    [
        ("assistant\n<think>\n", "<think>\n"),
        ("assistant\n<think>", "<think>"),
        ("Assistant: <answer> ", "<answer> "),
        ("assistant\n", ""),
        ("<think>\n\n</think>\n\n", ""),
        ("in <think> tags. Assistant:", ""),
    ],
)
def test_template_prefill(rendered, opened):
    assert template_prefill(rendered) == opened


def test_with_prefill():
    assert with_prefill("A:", "") == "A:"
    assert with_prefill("A:\n", "\n") == "A:\n\n"
    assert with_prefill("A:<think> ", "<think>\n") == "A:<think> "
    assert with_prefill("A:", "<think>\n") == "A:<think>\n"
    assert with_prefill("A:<think>\n", "<think>\nOkay") == "A:<think>\nOkay"
    assert with_prefill("A:<think>", " <think> Okay") == "A:<think> Okay"
    assert with_prefill("A:<think>\n", "Okay") == "A:<think>\nOkay"


def test_few_shot_puts_solved_examples_before_the_question():
    made = FewShot(shots={"1+1?": "2", "a {b}?": "\\boxed{c}"}, prefill="")
    expected = "Question: 1+1?\nAnswer: 2\n\nQuestion: a {b}?\nAnswer: \\boxed{c}\n\nQuestion: 2+2?\nAnswer:"
    assert made.render(tokenizer(), "2+2?") == expected
    assert made.render(tokenizer(adds_bos=True), "2+2?") == "<s>" + expected
    assert made.complete(tokenizer(), "2+2?", " 4") == " 4</s>"
    with pytest.raises(UserError, match="an example has"):
        FewShot(shots={"{prompt}?": "2"}, prefill="")
