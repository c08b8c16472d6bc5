"""Sentences, words and the language of prose, without a model or word lists of other packages.

Of the languages of one script, the one with the most function words and letters of its own counts.
"""

from __future__ import annotations

import re
from collections import Counter

from r1.data.text import words as scripts

WORD = re.compile(r"\w+")
# U.S. and e.g. are one word; so are well-known and don't
TOKEN = re.compile(r"(?:[^\W\d_]\.){2,}|[^\W_]+(?:[-'’][^\W_]+)*")
BEFORE_A_NAME = "mr mrs ms dr prof st mt vs dept fig eq vol pp approx gen col sgt capt rev hon gov sen rep e.g i.e"
BEFORE_ANYTHING = "etc inc ltd co corp al no jr sr est ed jan feb mar apr jun jul aug sep sept oct nov dec"
CONTINUES = frozenset(BEFORE_A_NAME.split())  # after these no sentence ends
ABBREVIATIONS = CONTINUES | {*BEFORE_ANYTHING.split()}  # after these one ends before a capital
END = re.compile(r"[.!?…。！？।؟]+[\"'”’)\]*_»」]*(?=\s|$)|[。！？]+[」』”]*")
ENUMERATOR = re.compile(r"(?:^|\n)\s*(?:[-*•]\s*)?(?:\d{1,3}|[A-Za-z])\Z")
INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]\Z")

FUNCTION_WORDS = {
    "en": "the of and to in is that it for on with as was are this be by not or from at have you we they an but which",
    "es": "el los las del y que en un una es por con para su no se lo como más pero sus le ya está fue muy la de",
    "pt": "o os as do da dos das e que em um uma é por com para seu sua não se como mais mas foi ao pelo à são muito",
    "fr": "le les des du et que en un une est pour dans qui sur pas ne se plus par avec ce il au sont nous vous la de",
    "it": "il lo gli i le del della di e che in un una è per con non si come più ma sono nel alla dei anche ha",
    "de": "der die das und ist nicht ein eine zu den mit von für auf im dem sich des es auch als an werden aus sie",
    "vi": "và của là có không được trong cho một những các người với này đã khi để cũng như từ tôi nhiều về đến",
    "sw": "ya na wa kwa ni katika za la cha hii kuwa kama au hiyo yake watu wakati lakini sana pia wote kila hizi",
    "pl": "i w na się nie do jest to że z o jak po co ale za od przez dla są być ten tym jego tylko może już",
    "fi": "ja on ei se että hän oli ovat mutta kun niin kuin myös joka mitä tai sen ole voi hyvin ne sekä kanssa",
    "nl": "de het een en van ik te dat niet zijn op aan met voor er maar om hem dan zou wat mijn ook als bij",
    "sv": "och att det som en på är av för med den till inte om ett har jag var men vi så från kan när",
    "tr": "ve bir bu da de için ile çok olarak daha gibi olan ne var kadar ama sonra değil en şey ben o",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke karena tersebut bisa ada adalah",
    "ru": "и в не на я что он с как это по но они мы к у вы за бы был из для все так от ее её его или ты о же",
    "uk": "і в не на що він з як це та до але у ви за був для від її його або ми також є й про які який щоб",
    "bg": "и в не на че е с се да от за по но са като това му той ще ги един една също към при или беше който",
    "ar": "في من على إلى أن هذا التي عن مع كان هذه ما لا هو أو الذي قد كل بعد بين هي ذلك كما عند",
    "fa": "و در به از که این را با است برای آن یک خود تا می بر هم نیز شد ها های کرد ما اما یا بود",
    "ur": "کے کی میں اور ہے سے کو کا پر نے یہ کہ ہیں ہو ایک بھی نہیں تھا کر اس وہ جو لیے ان آپ",
    "hi": "के में की है और से को का पर यह हैं कि एक ने नहीं भी इस हो लिए वह था तो जो ही या आप",
    "mr": "आहे आणि या व हे ते आहेत की एक त्या करून होते नाही म्हणून साठी मी तर पण हा ती झाले असे आपण",
    "ne": "छ र को मा लाई पनि यो हो ले छन् गर्न भने गरेको थियो एक तपाईं हामी छैन भएको तर अनि गर्छ हुन्छ",
}
LETTERS = {  # that no other language here of the script has
    "es": "ñ¿¡", "pt": "ãõ", "fr": "œèêëùû", "de": "ß", "vi": "ơưđạảấầẩẫậắằẵặẹẻẽếềểễệịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    "pl": "ąęłńśźż", "sv": "å", "tr": "ğış", "ru": "ыэё", "uk": "іїєґ", "bg": "", "fa": "پچژگ", "ur": "ٹڈڑںےھہ",
    "ar": "ةىإأ", "mr": "ळ",
}  # fmt: skip
GROUPS = {  # script, as ``text.words`` names it -> its languages, the first of which is that of a text without evidence
    "en": ("en", "es", "pt", "fr", "it", "de", "vi", "sw", "pl", "fi", "nl", "sv", "tr", "id"),
    "ru": ("ru", "uk", "bg"),
    "ar": ("ar", "fa", "ur"),
    "hi": ("hi", "mr", "ne"),
}
ONLY_ONES = "zh ja ko el hy he ka am bn pa gu ta te kn ml si th lo my km"  # of their scripts
SCRIPT_OF = {language: script for script, languages in GROUPS.items() for language in languages}
SCRIPT_OF |= {language: language for language in ONLY_ONES.split()} | {"zh-cn": "zh"}
"""ISO 639-1 code of each language that can be told -> its script."""
WORDS_OF = {language: frozenset(text.split()) for language, text in FUNCTION_WORDS.items()}
MARKS = "\u0300-\u036f\u0900-\u0903\u093a-\u094f\u064b-\u0652"
WORD_WITH_MARKS = re.compile(rf"[^\W\d_](?:[^\W\d_]|[{MARKS}])*")


def is_in_language(text: str, language: str) -> bool:
    """Whether most words of a text are in this language; a text without words is in any."""
    names = Counter(scripts(text))
    if not names:
        return True
    script, count = names.most_common(1)[0]
    if script != SCRIPT_OF[language] or 2 * count <= names.total():
        return False
    if script not in GROUPS:
        return True
    evidence = {name: evidence_of(text.lower(), name) for name in GROUPS[script]}
    return evidence[language] == max(evidence.values()) and (evidence[language] > 0 or language == GROUPS[script][0])


def evidence_of(text: str, language: str) -> int:
    """Function words of a language in a text in lower case, and letters that it alone has."""
    words, letters = WORD_WITH_MARKS.findall(text), LETTERS.get(language, "")
    return sum(word in WORDS_OF[language] for word in words) + 2 * sum(map(text.count, letters))


def sentences(text: str) -> list[str]:
    """The sentences of a text; what follows the last full stop is one, and a line break is no end."""
    parts, start = [], 0
    for end in END.finditer(text):
        if end[0].startswith(".") and not ends_sentence(text, start, end.start(), end.end()):
            continue
        parts.append(text[start : end.end()])
        start = end.end()
    parts.append(text[start:])
    return [sentence.strip() for sentence in parts if WORD.search(sentence)]


def ends_sentence(text: str, start: int, stop: int, after: int) -> bool:
    """Whether the full stop at ``stop`` ends the sentence from ``start``: not behind Mr or a list's number."""
    before, rest = text[max(start, stop - 40) : stop], text[after : after + 40].lstrip()
    is_lower = rest[:1].islower()
    if text.startswith("..", stop):
        return not is_lower  # an ellipsis
    word = before.split()[-1].lstrip("([\"'“*_") if before.split() else ""
    if ENUMERATOR.search(before) or word.lower() in CONTINUES:
        return False
    if is_lower:
        return not (INITIALS.fullmatch(word) or word.lower() in ABBREVIATIONS)
    return word == "I" or not (len(word) == 1 and word.isupper())
