"""The languages of a text's words, told apart by script.

A run of letters of one script is a word; in scripts without spaces (Chinese, Japanese, Thai and others) every letter is
one. A script is named by a language that is written in it: ``en`` is any language in Latin letters, for script cannot
tell English from French. LaTeX, code, tags, digits and single letters (variables) are no language.
"""

from __future__ import annotations

import re
from typing import Literal

Language = Literal[
    "en", "zh", "ja", "ko", "ru", "el", "hy", "he", "ar", "ka", "am",
    "hi", "bn", "pa", "gu", "or", "ta", "te", "kn", "ml", "si", "th", "lo", "bo", "my", "km",
]  # fmt: skip
HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
INDIC = ("hi", "bn", "pa", "gu", "or", "ta", "te", "kn", "ml", "si")  # blocks of 128 from U+0900, in this order
SCRIPTS: dict[str, str] = {  # letters and their marks: blocks of Unicode
    "en": LATIN,
    "zh": HAN,
    "ja": "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f",  # kana; see ``words`` for its Han characters
    "ko": "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb",
    "ru": "\u0400-\u052f\u1c80-\u1c88\u2de0-\u2dff\ua640-\ua69f",
    "el": "\u0370-\u03ff\u1f00-\u1fff",
    "hy": "\u0531-\u0587\ufb13-\ufb17",
    "he": "\u0591-\u05f4\ufb1d-\ufb4f",
    "ar": "\u0610-\u061a\u0620-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc",
    "ka": "\u10a0-\u10ff\u1c90-\u1cbf\u2d00-\u2d2d",
    "am": "\u1200-\u1360\u1369-\u139f\u2d80-\u2ddf",
    **{name: f"{chr(0x900 + 128 * i)}-{chr(0x963 + 128 * i)}" for i, name in enumerate(INDIC[:-1])},
    "si": "\u0d81-\u0df3",
    "th": "\u0e01-\u0e4e",
    "lo": "\u0e81-\u0ede",
    "bo": "\u0f40-\u0fbc",
    "my": "\u1000-\u109f\ua9e0-\ua9fe\uaa60-\uaa7f",
    "km": "\u1780-\u17d3",
}
WITH_DIGITS = ("ar", *INDIC, "lo", "th", "bo", "my")  # in their blocks
UNSPACED = ("zh", "ja", "th", "lo", "bo", "my", "km")  # every letter is a word
SYLLABIC = (*UNSPACED, "ko")  # a single one is no variable
KNOWN = "".join(SCRIPTS.values())


def _word(name: str) -> str:
    """The pattern of a word in one script."""
    letter = f"(?:(?!\\d)[{SCRIPTS[name]}])" if name in WITH_DIGITS else f"[{SCRIPTS[name]}]"
    return f"(?P<{name}>{letter}{'' if name in UNSPACED else '+'})"


WORD = re.compile("|".join(map(_word, SCRIPTS)) + f"|(?P<other>[^\\W\\d_{KNOWN}]+)")

# Every alternative stops at the next delimiter of its own kind, so no text makes the search quadratic.
NOT_LANGUAGE = re.compile(
    r"```(?:(?!```).)*```|`[^`\n]*`"  # code
    r"|\$\$[^$]*\$\$|\$[^$\n]*\$|\\\[(?:(?!\\[\[\]]).)*\\\]|\\\((?:(?!\\[()]).)*\\\)"  # LaTeX formulas
    r"|\\(?:begin|end)\{\w*\*?\}|\\[A-Za-z]+"  # LaTeX commands
    r"|</?[A-Za-z]\w*>",  # tags
    re.DOTALL,
)


def language_share(text: str, target: Language) -> float:
    """Words of ``target`` over all words of ``text``; 0 if it has none. Linear time."""
    languages = words(text)
    return languages.count(target) / len(languages) if languages else 0.0


def words(text: str) -> list[str]:
    """The language of each word of ``text``, ``other`` for scripts that are not in the table. Linear time.

    Japanese mixes kana with Han characters: where there is one kana or more for three of those, they are Japanese.
    """
    matches = WORD.finditer(NOT_LANGUAGE.sub(" ", text))
    languages = [str(m.lastgroup) for m in matches if m.lastgroup in SYLLABIC or len(m[0]) > 1]
    num_kana = languages.count("ja")
    if num_kana and 3 * num_kana >= languages.count("zh"):
        return ["ja" if name == "zh" else name for name in languages]
    return languages
