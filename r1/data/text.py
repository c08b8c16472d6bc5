"""The languages of a text's words, told apart by script.

A run of Latin letters is one word, a Han character is one word, a run of letters of any other script is one word of a
third language. Script cannot tell English from French. LaTeX, code, tags, digits and single letters (variables) are no
language.
"""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["en", "zh"]
HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
WORD = re.compile(f"(?P<zh>[{HAN}])|(?P<en>[{LATIN}]+)|(?P<other>[^\\W\\d_{HAN}{LATIN}]+)")

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
    """The language (``en``, ``zh`` or ``other``) of each word of ``text``. Linear time."""
    matches = WORD.finditer(NOT_LANGUAGE.sub(" ", text))
    return [str(m.lastgroup) for m in matches if m.lastgroup == "zh" or len(m[0]) > 1]
