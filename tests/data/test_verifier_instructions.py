"""IFEval's kinds of instructions: responses that follow each, that do not, and that do so loosely alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hubsets import write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from r1.config.build import build_data
from r1.core.errors import UserError
from r1.data.verifier.instruction_kinds import KINDS
from r1.data.verifier.instructions import Instructions, parameters
from r1.data.verifier.prose import SCRIPT_OF, is_in_language, sentences

STRICT = Instructions(mode="strict", partial_credit=False)
LOOSE = Instructions(mode="loose", partial_credit=False)
FIFTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
Case = tuple[str, dict[str, Any], list[str], list[str], list[str]]
CASES: list[Case] = [  # kind, arguments, responses that follow it, that do not, and that do loosely alone
    (
        "keywords:existence",
        {"keywords": ["river", "C++"]},
        ["The River is written in C++.", "c++ rivers"],
        ["The river is written in C.", "riv er C++"],
        ["The ri*ver is C++."],
    ),
    (
        "keywords:frequency",
        {"keyword": "sun", "frequency": 3, "relation": "at least"},
        ["sun Sun SUN", "sunny, sunset and sun"],
        ["sun Sun", "son son son sun"],
        ["s*un sun sun"],
    ),
    (
        "keywords:frequency",
        {"keyword": "sun", "frequency": 2, "relation": "less than"},
        ["sun", "moon"],
        ["sun sun"],
        ["The sun:\nsun"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["art", "Ph.D."]},
        ["A smart start.", "PhD"],
        ["ART!", "an art-form", "a Ph.D. thesis"],
        ["About art:\nPaintings."],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        ["Quick quiz", "qq"],
        ["quick", "kick"],
        [],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "!", "let_frequency": 2, "let_relation": "less than"},
        ["Hello!"],
        ["Hello!!"],
        ["Hello!\nBye!"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Das ist ein kurzer Satz.", "Ich weiß nicht, was das ist."],
        ["This is a short sentence.", "Dit is een korte zin.", "C'est une phrase."],
        ["Sure, here is it, for you and for the others:\nDas ist ein kurzer Satz."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        ["Dr. Lee has 3.5 cats. She is in the U.S. today.", "One", "Really?! Yes."],
        ["One. Two. Three.", "Is it? It is! Good."],
        ["Sure thing! Here it is.\nOne. Two."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ["One. Two.", "你好。我很好。"],
        ["Just one, e.g. this", "1. One item"],
        [],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 15, "relation": "at least"},
        [FIFTEEN, f"{FIFTEEN}."],
        [FIFTEEN.removesuffix("fifteen")],
        [],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 15, "relation": "less than"},
        [FIFTEEN.removesuffix("fifteen"), "well-known words"],
        [FIFTEEN],
        [f"Here is the text:\n{FIFTEEN.removesuffix('fifteen')}"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["One.\n***\nTwo.", "***\nOne.\n\nstill one\n***\nTwo.\n***"],
        ["One.\n\nTwo.", "One.\n***\n***\nTwo.", "One.\n1\n***\nTwo.\n***\nThree.\n3"],
        ["***\n***\nOne.\n***\nTwo."],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["First.\n\nThen, second.", 'First.\n\n"then" second.', "First.\n\n\n\nThen"],
        ["First.\nThen second.", "First.\n\nNow.", "Then.\n\nFirst.", "First.\n\nThen.\n\nLast.\nEnd."],
        ["First.\n\n**Then** second."],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["Dear [name], at [address].", "[a][b][c]"],
        ["Dear [name].", "Dear (name), at (address)"],
        [],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. I forgot.", "Bye. p. s. more"],
        ["Bye.", "Bye. PS: I forgot."],
        ["Bye.\n**P**.S. I forgot."],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["Bye.\nP.P.S I forgot.", "p. p. s."],
        ["P.S. I forgot."],
        [],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* one\n* two", "List:\n- one\n  - two\n", "* one\n---\n- two"],
        ["* one", "* one\n* two\n* three\n* four\n* five", "1. one\n2. two", "**one**\n**two**"],
        ["* Sure:\n* one\n* two"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is maybe."],
        ["Yes.", "My answer is yes", "my answer is no."],
        ["My answer is **no**."],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "**one** *two*"],
        ["*one*", "**one**", "* one\n* two", "* * * *"],
        [],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION 2 SECTION 3"],
        ["SECTION 1\na", "Section 1\na\nSection 2\nb", "SECTION one SECTION two"],
        ["SECTION *1*\na\nSECTION *2*\nb"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', "```\n[1]\n```", "3"],
        ["{a: 1}", 'It is {"a": 1}', '{"a": 1} ```'],
        ['Here it is:\n{"a": 1}', '{"a": 1}\nI hope that this helps.', 'Here:\n{"a": 1}\nBye.'],
    ),
    (
        "detectable_format:title",
        {},
        ["<<poem of joy>>\nIt is", "A <<b>>"],
        ["<poem>", "<<>>", "<< >> x", "<<poem\nof joy>>"],
        ["<*<poem>*>"],
    ),
    (
        "combination:two_responses",
        {},
        ["One.\n******\nTwo.", "******\nOne.\n******\nTwo.\n******"],
        ["One.", "One.\n******\nOne.", "One.\n***\nTwo.", "a\na\n******\nb\n******\nc\nc", "a\n******\n******\nb"],
        [],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a poem. "},
        ["Write a poem.\n\nRoses are red.", "write a POEM."],
        ["Here: Write a poem.", "Write a song."],
        ["Sure:\nWrite a poem.", "**Write a poem.** Roses"],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "Any other questions?"},
        ["It is so. Any other questions?", '"It is. any other questions?" '],
        ["It is so.", "Any other questions? No."],
        ["It is so. *Any other questions?*", "It is. Any other questions?\n\nBye."],
    ),
    (
        "startend:quotation",
        {},
        ['"It is."', ' "" '],
        ["It is.", '"', '"It is', "'It is.'"],
        ['Here:\n"It is."', '*"It is."*'],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 3, "capital_relation": "less than"},
        ["The WHO and NASA", "A WELL-KNOWN word"],
        ["The WHO and NASA are BIG", "I met A B"],
        ["NASA:\nthe WHO is BIG"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["STOP! GO!", "The U.S. is BIG"],
        ["STOP", "Stop Go"],
        [],
    ),
    (
        "change_case:english_capital",
        {},
        ["THIS IS THE WAY, 1ST OF ALL.", "HELLO"],
        ["THIS IS tHE WAY", "This is", "DAS IST NICHT DER WEG", "123"],
        ["Here it is:\nTHIS IS THE WAY."],
    ),
    (
        "change_case:english_lowercase",
        {},
        ["this is the way, 1st of all.", "hello"],
        ["This is the way", "das ist nicht der weg", "123"],
        ["Here it is:\nthis is the way."],
    ),
    (
        "punctuation:no_comma",
        {},
        ["It is so.", "1000; 2000"],
        ["First, this.", "1,000"],
        ["Sure, here:\nIt is so."],
    ),
]


def row(kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"instruction_id_list": [kind], "kwargs": [arguments], "answer": kind}


def test_every_kind_has_a_case() -> None:
    assert len(KINDS) == 25
    assert {case[0] for case in CASES} == {*KINDS}


@pytest.mark.parametrize(("kind", "arguments", "right", "wrong", "loose"), CASES)
def test_instruction_is_followed_strictly_loosely_or_not(
    kind: str, arguments: dict[str, Any], right: list[str], wrong: list[str], loose: list[str]
) -> None:
    of_row = row(kind, arguments)
    assert {text: STRICT(text, of_row) for text in right} == dict.fromkeys(right, True)
    assert {text: STRICT(text, of_row) for text in wrong + loose} == dict.fromkeys(wrong + loose, False)
    assert {text: LOOSE(text, of_row) for text in right + loose} == dict.fromkeys(right + loose, True)
    assert {text: LOOSE(text, of_row) for text in wrong} == dict.fromkeys(wrong, False)


@pytest.mark.parametrize("kind", KINDS)
def test_blank_response_follows_no_instruction(kind: str) -> None:
    arguments = next(case[1] for case in CASES if case[0] == kind)
    assert not any(
        verifier(text, row(kind, arguments)) for text in ("", " \n", "\n\n\n") for verifier in (STRICT, LOOSE)
    )


def test_response_follows_all_instructions_or_earns_its_share() -> None:
    both = {
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"num_words": 3, "relation": "at least", "letter": None, "frequency": None}],
    }
    partial = Instructions(mode="strict", partial_credit=True)
    texts = ["one two three", "one, two three", "one", "one, two"]
    assert [STRICT(text, both) for text in texts] == [True, False, False, False]
    assert STRICT.score_batch(texts, [both] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert partial.score_batch(texts, [both] * 4) == [1.0, 0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("completion", "response"),
    [
        ("<think>no, no</think>\nOne, two.", "One, two."),
        ("<think>x</think><answer>One.</answer>", "One."),
        ("One.\n\nTwo.", "One.\n\nTwo."),
        ("<think>One.", None),
        ("", None),
    ],
)
def test_response_is_what_follows_the_thinking(completion: str, response: str | None) -> None:
    assert STRICT.read(completion, {}) == response


BAD_ROWS = [
    (["keywords:exist"], [{}], "no kind of instruction: 'keywords:exist'"),
    (["keywords:existence"], [{}], "`keywords` is None"),
    (["keywords:existence"], [{"keywords": "sun"}], "`keywords` is 'sun'"),
    (["length_constraints:number_words"], [{"num_words": "9", "relation": "at least"}], "`num_words` is '9'"),
    (["length_constraints:number_words"], [{"num_words": 9, "relation": "more than"}], "`relation` is 'more than'"),
    (["language:response_language"], [{"language": "xx"}], "no language 'xx'"),
    (["punctuation:no_comma"], [], "equal length"),
    ("punctuation:no_comma", [{}], "lists of equal length"),
    ([], [], "not empty"),
]


@pytest.mark.parametrize(("kinds", "arguments", "message"), BAD_ROWS)
def test_row_whose_instruction_is_unknown_is_an_error(
    config: Any, tmp_path: Path, kinds: Any, arguments: Any, message: str
) -> None:
    write_jsonl([{"prompt": "Write.", "instruction_id_list": kinds, "kwargs": arguments}], tmp_path / "rows.jsonl")
    with pytest.raises(UserError) as error:
        build_data(config("stage=eval", "data=ifeval", f"data.path={tmp_path / 'rows.jsonl'}"))
    assert message in error.value.message
    bad = {"instruction_id_list": kinds, "kwargs": arguments, "answer": "x"}
    assert STRICT.reads([bad]) == [False]
    assert not STRICT("Any text.", bad)


def test_ifeval_in_the_hubs_layout_is_evaluated_whole(config: Any, tmp_path: Path) -> None:
    rows = [
        {"key": 1000 + i, "prompt": f"Write about {i}.", "instruction_id_list": ["length_constraints:number_words"]}
        | {"kwargs": [{"num_words": i + 1, "relation": "less than", "num_highlights": None}]}
        for i in range(30)
    ]
    write_jsonl(rows, tmp_path / "ifeval_input_data.jsonl")
    data = build_data(config("stage=eval", "data=ifeval", f"data.path={tmp_path}"))
    assert len(data.val) == 30
    assert [data.correct("<think>a b c</think>just four words here", row) for row in data.val] == [
        i > 3 for i in range(30)
    ]


SENTENCES = [
    ("Mr. Smith went home. He slept.", 2),
    ("Wait... what? Yes.", 2),
    ('He said "Stop!" Then he left.', 2),
    ("Title\n\nText one. Text two.", 2),
    ("J. R. Smith wrote it.", 1),
    ("We met at 5 p.m. yesterday.", 1),
    ("Visit example.com now. Ok.", 2),
    ("So do I. You too.", 2),
    ("He has apples, pears, etc. He is fine.", 2),
    ("**Bold.** Next one.", 2),
    ("यह है। वह है।", 2),
    ("1. First item.\n2. Second item.", 2),
    ("A. First\nB. Second", 1),
    ("", 0),
    ("?!", 0),
]


@pytest.mark.parametrize(("text", "count"), SENTENCES)
def test_sentences_end_at_full_stops_but_not_behind_abbreviations(text: str, count: int) -> None:
    assert len(sentences(text)) == count


LANGUAGES = {
    "en": "This is a simple sentence.", "es": "Esta es una frase sencilla en español.",
    "pt": "Esta é uma frase simples em português.", "fr": "Ceci est une phrase simple en français.",
    "it": "Questa è una frase semplice in italiano.", "de": "Das ist ein einfacher Satz auf Deutsch.",
    "vi": "Đây là một câu đơn giản bằng tiếng Việt.", "sw": "Hii ni sentensi rahisi kwa Kiswahili.",
    "pl": "To jest proste zdanie po polsku.", "fi": "Tämä on yksinkertainen lause ja se on hyvä.",
    "ru": "Это простое предложение на русском языке.", "uk": "Це просте речення українською мовою.",
    "bg": "Това е просто изречение на български език.", "ar": "هذه جملة بسيطة في اللغة العربية.",
    "fa": "این یک جمله ساده به زبان فارسی است.", "ur": "یہ اردو میں ایک سادہ جملہ ہے۔",
    "hi": "यह हिंदी में एक सरल वाक्य है।", "mr": "हे मराठीत एक साधे वाक्य आहे.", "ne": "यो नेपालीमा एउटा सरल वाक्य हो।",
    "bn": "এটি বাংলায় একটি সহজ বাক্য।", "kn": "ಇದು ಕನ್ನಡದಲ್ಲಿ ಸರಳ ವಾಕ್ಯ.", "ko": "이것은 한국어 문장입니다.",
    "ja": "これは日本語の簡単な文です。", "zh": "这是一个简单的中文句子。", "ta": "இது தமிழில் ஒரு எளிய வாக்கியம்.",
    "te": "ఇది తెలుగులో ఒక సరళమైన వాక్యం.", "gu": "આ ગુજરાતીમાં એક સરળ વાક્ય છે.", "pa": "ਇਹ ਪੰਜਾਬੀ ਵਿੱਚ ਇੱਕ ਸਧਾਰਨ ਵਾਕ ਹੈ।",
    "th": "นี่คือประโยคง่ายๆ ในภาษาไทย", "he": "זה משפט פשוט בעברית.", "ml": "ഇത് മലയാളത്തിൽ ഒരു ലളിതമായ വാക്യമാണ്.",
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_language_of_a_sentence_is_the_only_one(language: str) -> None:
    languages = {code for code in SCRIPT_OF if is_in_language(LANGUAGES[language], code)}
    assert languages - {"zh-cn"} == {language}


@given(st.text(), st.sampled_from([*KINDS]))
def test_verifier_judges_any_response(text: str, kind: str) -> None:
    arguments = next(case[1] for case in CASES if case[0] == kind)
    assert not STRICT(text, row(kind, arguments)) or LOOSE(text, row(kind, arguments))


@pytest.mark.parametrize(
    "text", ["a", " ", "*", "[", "A.", "<<", "1. ", "{", '"', "Section 1", "\n", "***", ". ", "p."]
)
def test_kinds_take_linear_time(text: str) -> None:
    start = time.perf_counter()
    for kind, arguments, *_ in CASES:
        STRICT(text * (100_000 // len(text)), row(kind, arguments))
    assert time.perf_counter() - start < 20  # two seconds on an idle machine


def test_arguments_of_a_kind_are_its_parameters() -> None:
    assert [*parameters("startend:quotation")] == []
    assert [*parameters("length_constraints:number_words")] == ["num_words", "relation"]
