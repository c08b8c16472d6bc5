"""The language-consistency reward of DeepSeek-R1 (2.3.2): how much of the thinking is in one language.

The paper takes the share of target-language words; ``r1.data.text`` defines the words of a language.
"""

from __future__ import annotations

from typing import Any

from r1.data.completion import parse
from r1.data.text import Language, language_share


def language(prompts: list[str], completions: list[str], *, target: Language, **columns: Any) -> list[float | None]:
    """Share of ``target`` words in the thinking, 0 to 1; 0 where there is no thinking; (B,)."""
    return [language_share(parse(completion).thinking or "", target) for completion in completions]
