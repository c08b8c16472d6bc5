"""One spelling of mathematics: Unicode, dollars, spacing and boxes become plain LaTeX, which the reader reads.

``30°`` becomes ``30^\\circ``, ``x²`` ``x^{2}``, ``½`` ``\\frac{1}{2}``, ``√2`` ``\\sqrt 2``, ``12{,}345`` ``12345``.
Linear time, and nothing is computed: safe for any text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from r1.data.completion import boxed, normalise
from r1.data.verifier.guard import balanced
from r1.data.verifier.tree import FUNCTIONS, SYNONYMS

SIGNS = {
    **{"×": r"\times", "·": r"\cdot", "⋅": r"\cdot", "∙": r"\cdot", "•": r"\cdot", "÷": "/", "⁄": "/", "∕": "/"},
    **{"≤": r"\le", "⩽": r"\le", "≥": r"\ge", "⩾": r"\ge", "≠": r"\ne", "≈": r"\approx", "±": r"\pm", "∓": r"\mp"},
    **{"∞": r"\infty", "∪": r"\cup", "∩": r"\cap", "∈": r"\in", "∖": r"\setminus", "∅": r"\emptyset", "∣": r"\mid"},
    **{"°": r"^\circ", "º": r"^\circ", "′": "'", "’": "'", "√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"},
    **{"⟨": r"\langle", "⟩": r"\rangle", "⌊": r"\lfloor", "⌋": r"\rfloor", "⌈": r"\lceil", "⌉": r"\rceil"},
    **{"–": "-", "—": "-", "‐": "-", "‑": "-", "，": ",", "∠": r"\angle", "λ": r"\lambda"},
    **{"€": r"\euro", "£": r"\pound", "¥": r"\yen", "₹": r"\rupee", "¢": " cent", "…": "..."},
}
SYSTEM = re.compile(  # its rows stop at the next \begin, too, so that no text is searched twice
    r"(?:\\left\s*)?\\\{\s*\\begin\{(array|aligned|matrix)\}(?:\{[^{}]*\})?"
    r"((?:(?!\\(?:end|begin)\{).)*)\\end\{\1\}\s*\\right\s*\."
    r"|\\begin\{cases\}((?:(?!\\(?:end|begin)\{).)*)\\end\{cases\}",
    re.DOTALL,
)
LAYOUT = re.compile(
    r"\\(?:left|right)(?![a-zA-Z])\s*\.?|\\(?:[bB]igg?[lrm]?|(?:display|text)style|limits|bf|rm|boldsymbol|mathbf|bm|mathit)"
    r"(?![a-zA-Z])"
)
SPACE = re.compile(r"(?<!\\)\\[,;:> ]|~|\\thinspace(?![a-zA-Z])|\\q?quad|\s")
DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]|(?<!\\)\$")
LISTED = re.compile(r"\$\s*([,;])\s*\$")
# Never a plain comma here: whether it separates thousands or elements depends on the brackets around it.
THOUSANDS = re.compile(r"(?<![0-9.^_])[0-9]{1,3}(?:(?:(?:\{,\}|,\\!)\s*| )[0-9]{3})+(?![0-9])")
DECIMAL_COMMA = re.compile(r"(?<=[0-9])\{,\}(?=[0-9])")  # TeX's comma that separates nothing
CHOOSE = re.compile(r"\{([^{}\\]*)\\choose(?![a-zA-Z])([^{}\\]*)\}")
NOON = re.compile(r"(?<![a-zA-Z])([aApP])\.\s?[mM](?:\.|\b)")
PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
CELSIUS = re.compile(r"(\^(?:\\circ|\{\s*\\circ\s*\}))\s*([CFK])(?![a-zA-Z])")

SEXAGESIMAL = re.compile(
    r"(?<![0-9.])([0-9]+)\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree)\s*([0-9]{1,2})\s*(?:'|\^\s*\{?\s*\\prime\s*\}?)(?!')"
    r"(?:\s*([0-9]{1,2})\s*(?:''|\"|\^\s*\{\s*\\prime\s*\\prime\s*\}))?"
)
BAR = re.compile(r"\\[lr]?vert(?![a-zA-Z])")
OPERATOR = re.compile(r"\\operatorname\*?\s*\{\s*(" + "|".join(sorted({*FUNCTIONS, *SYNONYMS})) + r")\s*\}")
MODULO = re.compile(r"\\pmod\s*\{?\s*([0-9]+)\s*\}?|\(\s*\\b?mod\s*([0-9]+)\s*\)")
ORDINAL = re.compile(
    r"(?<=[0-9])(?: ?\^ ?\{ ?(?:\\(?:text|mathrm) ?\{ ?)?(?:st|nd|rd|th) ?\}(?: ?\})?|(?:st|nd|rd|th)\b)"
)
OUTWARD = re.compile(r"([\[\]])(\s*[^\s\[\]();,{}][^\[\]();,{}]*[;,][^\[\]();,]+)([\[\]])")
LONE_DOLLAR = re.compile(r"\$(?= ?[0-9.])|(?<=[0-9]) ?\$$")
BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
BASES |= {"eleven": 11, "twelve": 12, "sixteen": 16}
BASE = re.compile(r"_ ?\{? ?\\(?:text|mathrm) ?\{ ?(" + "|".join(BASES) + r") ?\} ?\}?")
PROGRAM = re.compile(r"0(?:x([0-9a-fA-F]+)|b([01]+)|o([0-7]+))")
TEXT_IN = r"(?:\\(?:text|mathrm|mbox) ?\{ ?)?(?:%s)(?: ?\})?"
PERIOD = re.compile(  # 0.333..., 0.1212...; but 2.718281828... has no period
    r"(\.[0-9]{0,9}?)(?:([0-9])\2{2,40}|([0-9]{2,3}|[0-9]{6})\3{1,9}) ?(?:\.{3}|\\[lc]?dots)"
)
PLAINER = [
    ("x", re.compile(r"(?<=[0-9]) ?x ?(?=10 ?\^)"), r"\\times "),  # 1.5 x 10^3
    ("+", re.compile(r"\+ ?/ ?-|(?<![^=(,])\+-(?! ?\\inf)"), r"\\pm "),
    (")", re.compile(r"^([A-E])\)(?= )"), r"(\1)"),  # A) 5
    ("per cent", re.compile(r"\bper cent\b"), "percent"),
    ("", ORDINAL, ""),
    ("R", re.compile(r"(?<![a-zA-Z])(?:Rs\.?|INR) ?(?=[0-9])"), r"\\rupee "),
    ("USD", re.compile(r"(?<![a-zA-Z])USD ?(?=[0-9])"), r"\\dollar "),
    ("", re.compile(r"(?<=[\])}]) ?" + TEXT_IN % "U|u|union" + r" ?(?=[(\[\\])|\\bigcup(?! ?_)"), r"\\cup "),
    ("to", re.compile(r"(?<=[0-9]) ?" + TEXT_IN % "to" + r" ?(?=[0-9])"), ":"),
    ("", re.compile(r"(?<![0-9:.])(1[0-2]|[1-9]) ?(?=[aApP][mM](?![a-zA-Z]))"), r"\1:00 "),
    ("{", re.compile(r"\\(?:text|mathrm) ?\{ ?(hundred|thousand|million|billion|trillion)\b"), r"\1\\text{"),
    ("{(", re.compile(r"(?<![a-zA-Z\\])([a-zA-Z])\{(\([^(){}]*\)) ?\}"), r"\1\2"),  # f{(x)}
    ("}_", re.compile(r"\\(?:text|mathrm) ?\{ ?([0-9A-F]+) ?\}(?=_)"), r"\1"),  # \text{FF}_{16}
    (")_", re.compile(r"\(([0-9][0-9A-F]*)\)(?=_ ?\{?[0-9])"), r"\1"),  # (1011)_2
    (")", re.compile(r"_ ?\{? ?\(([0-9]+)\) ?\}?"), r"_{\1}"),  # 1011_{(2)}
    (")", re.compile(r"^(-?[0-9]*\.[0-9]*)\(([0-9]+)\)$"), r"\1\\overline{\2}"),  # 0.1(6)
    ("dot", re.compile(r"\\dot ?\{? ?([0-9]) ?\}?([0-9]*) ?\\dot ?\{? ?([0-9]) ?\}?"), r"\\overline{\1\2\3}"),
    (".", PERIOD, r"\1\\overline{\2\3}"),
    (".", re.compile(r"(\.[0-9]+) ?(?:\.{3}|\\[lc]?dots)$"), r"\1"),  # 3.14...
]
"""What a text with single spaces must hold for a spelling, the spelling, and its plain form."""

ANY_NUMBER = re.compile(  # n \in Z, for all real numbers t, where k is an integer
    r"(?<=\S)(?:\s*[,;]\s*|\s+|\s*(?=\())\(?\s*"
    r"(?:(?:where |for any |for all )?[a-z]\s*\\in\s*(?:\\mathbb\s*\{?\s*Z\s*\}?|Z)"
    r"|(?:\\text ?\{ ?)?(?:for|where) (?:all|any|every|some) (?:integers?|real numbers?) ?\}? ?[a-z]"
    r"|where [a-z] is (?:an integer|a real number)"
    r")\s*\)?$"
)


@lru_cache(maxsize=16_384)
def canonical(text: str) -> str:
    """The one spelling of a text, of a box's content where it has a box."""
    if PLAIN.fullmatch(text):
        return text
    text = boxed(text) or text
    if not text.isascii():
        text = ascii_math(normalise(text))
    if "\\" in text or "$" in text:
        text = plain_latex(text)
    text = NOON.sub(r"\1m", " ".join(SPACE.sub(" ", text).split()))
    text = PROGRAM.sub(in_base, text) if PROGRAM.fullmatch(text) else ANY_NUMBER.sub("", text)
    text = BASE.sub(lambda base: f"_{{{BASES[base[1]]}}}", text)
    for hint, spelling, plain in PLAINER:
        if hint in text:
            text = spelling.sub(plain, text)
    if not balanced(text):
        text = OUTWARD.sub(bracketed_inward, text)
    text = THOUSANDS.sub(lambda number: re.sub("[^0-9]", "", number[0]), text).replace("\\!", "")
    text = DECIMAL_COMMA.sub(".", text).strip()
    return text if text.endswith("..") else text.removesuffix(".").rstrip()


def plain_latex(text: str) -> str:
    """Without delimiters and layout; the rows of a system as a list."""
    if "\\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # \\\\frac: escaped once too often, as in JSON
    text = SYSTEM.sub(lambda system: (system[2] or system[3] or "").replace("\\\\", ", ").replace("&", " "), text)
    text = CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = MODULO.sub(r"\\text{ modulo \1\2}", OPERATOR.sub(r"\\\1 ", BAR.sub("|", text)))
    if text.count("$") == text.count("\\$") + 1:
        text = LONE_DOLLAR.sub(r"\\$", text)
    text = LISTED.sub(r"\1 ", text).replace("\\$", "\\dollar ")
    text = LAYOUT.sub("", DELIMITER.sub(" ", text))
    return SEXAGESIMAL.sub(in_degrees, CELSIUS.sub(r"\1\\text{\2}", text))


def in_base(number: re.Match[str]) -> str:
    """``0xFF`` as ``FF_{16}``."""
    return next(
        f"{digits.upper()}_{{{base}}}" for digits, base in zip(number.groups(), (16, 2, 8), strict=True) if digits
    )


def in_degrees(angle: re.Match[str]) -> str:
    """``30^\\circ 15' 36''`` as a fraction of degrees."""
    degrees, minutes, seconds = (int(part or 0) for part in angle.groups())
    return f"\\frac{{{3600 * degrees + 60 * minutes + seconds}}}{{3600}}^\\circ"


def bracketed_inward(interval: re.Match[str]) -> str:
    """``]0,1]`` as ``(0,1]``."""
    left, inner, right = interval.groups()
    return f"{'(' if left == ']' else left}{inner}{')' if right == '[' else right}"


def ascii_math(text: str) -> str:
    """Unicode's signs, raised, lowered and Greek letters and fractions as LaTeX."""
    text = "".join(char if char.isascii() else latex_of(char) for char in text)
    return re.sub(r"(?<=[0-9+\-a-z])\}(?:\^|_)\{(?=[0-9+\-a-z]\})", "", text)  # ^{1}^{0} is one exponent


def latex_of(char: str) -> str:
    """LaTeX of a character: ``²`` is ``^{2}``, ``½`` ``\\frac{1}{2}``, ``π`` ``\\pi``; a letter stays itself."""
    if char in SIGNS:
        return SIGNS[char] + " "
    kind = unicodedata.decomposition(char).partition(" ")[0]
    plain = unicodedata.normalize("NFKC", char).replace("\u2212", "-")
    if kind in ("<super>", "<sub>"):
        return f"{'^' if kind == '<super>' else '_'}{{{plain}}}"
    if kind == "<fraction>":
        top, _, bottom = plain.partition("\u2044")
        return f"\\frac{{{top}}}{{{bottom}}}"
    name = unicodedata.name(char, "")
    if name.startswith("GREEK SMALL LETTER "):
        return f"\\{name.rpartition(' ')[2].lower()} "
    if name.startswith("DOUBLE-STRUCK CAPITAL "):
        return f"\\mathbb{{{plain}}}"
    return f"\\{name.rpartition(' ')[2].capitalize()} " if name.startswith("GREEK CAPITAL LETTER ") else char
