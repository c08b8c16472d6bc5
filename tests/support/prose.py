"""Long sentences in README.md, CONTRIBUTING.md and docs/; ``python tests/support/prose.py`` lists them.

Code, tables, headings and what stands in parentheses do not count. A colon and a semicolon end a sentence, too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_WORDS = 25
WRITTEN_FROM_CODE = {"docs/reference/config.md"}  # comments of conf/, an example among them
NO_PROSE = re.compile(r"^(```|~~~).*?^\1|^(?: {4}|\||#|!\[)[^\n]*$", re.MULTILINE | re.DOTALL)
PARAGRAPH_END = re.compile(r"\n\s*\n|\n(?=- |\d+\. )")
SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+")


def sentences(text: str) -> Iterator[str]:
    """Of a Markdown text, without links' addresses and parentheses; a piece of code is one word."""
    for old, new in ((r"`[^`]*`", "CODE"), (r"\]\([^)]*\)", "]"), (r"\([^()]*\)", "")):
        text = re.sub(old, new, NO_PROSE.sub("", text))
    for paragraph in PARAGRAPH_END.split(text):
        yield from SENTENCE_END.split(" ".join(paragraph.split()))


def long_sentences() -> list[str]:
    """``file: words: sentence`` of every sentence of more than 25 words."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = {str(file.relative_to(ROOT)): file.read_text() for file in files}
    return [
        f"{name}: {len(sentence.split())} words: {sentence}"
        for name, text in texts.items()
        if name not in WRITTEN_FROM_CODE
        for sentence in sentences(text)
        if len(sentence.split()) > MAX_WORDS
    ]


if __name__ == "__main__":
    listed = long_sentences()
    print("\n".join(listed))
    sys.exit(f"{len(listed)} sentences of more than {MAX_WORDS} words" if listed else 0)
