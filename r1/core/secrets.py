"""No secret reaches a disk or a log: redaction by name, by the form of a value, and by the environment's secrets.

A secret works as usual while a run lives; it is replaced where something is written or printed. The rules are tables in
``r1.core.secret_rules``. The time is linear in the length of a text.
"""

from __future__ import annotations

import html
import json
import os
import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

from r1.core.secret_rules import (
    ADDRESS,
    BEARER,
    FORM,
    NAME_FIELD,
    PASSWORD_OF,
    PRIVATE_KEY,
    USER_INFO,
    USER_NAMES,
    WEBHOOK,
    is_certain_name,
    is_secret_env,
    is_secret_name,
)

REDACTED = "<redacted>"
SEEN_SECRETS: set[str] = set()  # values once hidden because of their key are hidden wherever they turn up again
NAMED_SECRETS: set[str] = set()  # values of the variables that a config names
MIN_LENGTH = 8  # characters; a shorter text may turn up by chance
MIN_NAMED_LENGTH = 4  # the same for a value that a config names, which is replaced as a whole word
MAX_HARMLESS = 300
PASSWORD = re.compile(r"(?i)(?:password|passwd|passphrase|passcode|pwd|phrase)\d*$")  # 12 words
HARMLESS_VALUE = re.compile(  # max_tokens=100 is no secret, nor is a reference to one
    r"\s*(?:[\d.eE+-]*|true|false|null|none|empty|yes|no|\*+|x+|<.*>|\$\{.*|\$\w+|%\w+%|(?:\w+ )?\{[\w.()]*\}?|%s)\s*",
    re.IGNORECASE | re.DOTALL,
)
CODE = re.compile(  # an expression or a type of a programming language
    r"[A-Za-z_][\w.]*[(\[].*|(?:self|os|cls|args|config|cfg|settings)\.[\w.]+"
    r"|[(\[{].*|[A-Z]+(?:_[A-Z]+)*"  # a container; a constant
    r"|(?:str|int|bool|bytes|float|object|Any|None|Tensor|String|string|list|dict|set|re)\b.*",
    re.DOTALL,
)
NAME = re.compile(
    r"(?<![\w.-])(?P<name>(?:(?:api|access|secret|private|auth)[ ](?=key|token))?[\w.-]++)"
    r"(?:(?P<closed>\\{0,7}['\"])?\]?|%22)"
    r"(?:[ ](?:is|was|provided|given|with[ ]value))?"
    r"(?:[ \t]*+(?P<sep>=>|->|:=|=(?!=)|:(?![:/=])|%3d|%3a|(?<=['\"]),(?=[ ]?b?['\"])|>)[ \t]*+"
    r"|[ \t]++(?=[^\s=:-]))",  # the last one of a flag, or in prose
    re.IGNORECASE,
)
QUOTE = re.compile(r"(?:[bfru]{1,2}(?=['\"]))?\\{0,7}['\"`]|%2[27]", re.IGNORECASE)
BARE = re.compile(r"(?:[^\s;&'\"`}\]),]|[,)\]](?![\s,)}\];&'\"`]|\Z|\w{1,40}[=:]))+")
BETWEEN_SEMICOLONS = re.compile(r"[^;\r\n'\"`]*+")
WORDS_BEHIND = re.compile(  # of a secret of several words
    r"(?:[ ](?!-)(?![\w.-]{1,40}[ ]?[=:])[^\s,;'\"`()\[\]{}<>|&=:#]++)*+"
)
NEXT_WORD = re.compile(r"(?:b?['\"]|(?:Bearer|Basic|Token) ){0,3}([^\s'\"]{4,300})(['\"]?)")
PAIR_START = re.compile(r"\(b?\\{0,7}['\"]$")
PAIR_END = re.compile(r"b?\\{0,7}['\"]([^'\"\\]{1,300})\\{0,7}['\"]\)")
HEADER_VALUE = re.compile(r"[^\r\n'\"`]*+")


def redact(value: Any) -> Any:
    """The same containers with every secret replaced, also those in texts (``a.api_key=...``)."""
    if isinstance(value, dict):
        of_field = any(is_secret_name(name) for key in ("name", "key") if isinstance(name := value.get(key), str))
        secret_keys = {k for k in value if is_secret_name(str(k)) or (of_field and k == "value")}
        return {k: _hide_all(v) if k in secret_keys else redact(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        flags = [False, *(isinstance(item, str) and _is_secret_flag(item) for item in value)]
        pairs = zip(value, flags, strict=False)
        return type(value)([_hide_all(item) if follows else redact(item) for item, follows in pairs])
    return _redact_text(value) if isinstance(value, str) else value


def redact_values(text: str) -> str:
    """Redact values only, not by their keys: for source code, where ``token = next(tokens)`` is no secret."""
    for secret, is_word in _known_secrets():
        if is_word:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", REDACTED, text)
        elif secret in text:
            text = text.replace(secret, REDACTED)
    text = PASSWORD_OF.sub(rf"\1{REDACTED}", text)
    text = WEBHOOK.sub(rf"\1{REDACTED}", _redact_private_keys(text))
    text = ADDRESS.sub(_redact_address, text)
    return BEARER.sub(_redact_bearer, FORM.sub(_redact_form, text))


def remember_secrets(config: Any) -> None:
    """Remember the values of a config that have to be hidden wherever they turn up.

    Those under secret keys, and those of the environment variables that it names (``api_key_env: NAME``).
    """
    redact(config)
    _remember_named(config)


def _remember_named(config: Any) -> None:
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        if isinstance(value, str) and re.search(r"(?i)(^|_)env(_var|_name|iron)?$", str(key)):
            NAMED_SECRETS.add(os.environ.get(value, "").strip())
        _remember_named(value)


def _known_secrets() -> list[tuple[str, bool]]:
    """(text, whether only as a whole word) for all known secrets as they may be written; the longest first."""
    from_env = {secret for name, secret in os.environ.items() if is_secret_env(name)}
    known = {(form, False) for secret in SEEN_SECRETS | from_env for form in _forms(secret) if len(form) >= MIN_LENGTH}
    for secret in NAMED_SECRETS:
        if len(secret) >= MIN_NAMED_LENGTH and not HARMLESS_VALUE.fullmatch(secret):
            known |= {(form, len(secret) < MIN_LENGTH) for form in _forms(secret)}
    return sorted(known, key=lambda item: -len(item[0]))


@lru_cache(4096)
def _forms(secret: str) -> frozenset[str]:
    """A secret as it is, and as JSON, Python, URLs, HTML and separate lines write it."""
    text = secret.encode(errors="replace").decode()  # a variable that is not UTF-8 has surrogates
    forms = {secret, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    forms |= {quote(text), quote(text, safe=""), quote_plus(text), html.escape(text)}
    return frozenset(forms | {line.strip() for line in text.splitlines() if len(line.strip()) >= 2 * MIN_LENGTH})


def _is_secret_flag(text: str) -> bool:
    return text.startswith("-") and "=" not in text and " " not in text and is_secret_name(text)


def _hide_all(value: Any) -> Any:
    """Every text below a secret key, and every number under it that is long enough to be one."""
    if isinstance(value, dict):
        return {key: _hide_all(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_hide_all(part) for part in value])
    if not isinstance(value, str) or HARMLESS_VALUE.fullmatch(value):
        return value
    SEEN_SECRETS.add(value.strip("'\""))
    return REDACTED


def _redact_text(text: str) -> str:
    key, equals, value = text.partition("=")
    if equals and not re.search(r"\s", key) and _is_secret_override(key, value):  # the rest of the text is its value
        return f"{key}={_hide_all(value)}"
    return redact_values(_redact_pairs(NAME_FIELD.sub(_redact_field, _redact_private_keys(text))))


def _is_secret_override(key: str, value: str) -> bool:
    if not re.fullmatch(r"(?:--?)?[+~]{0,2}[\w./@$-]+", key) or re.search("^=|&", value):
        return False
    return is_secret_name(key) and not HARMLESS_VALUE.fullmatch(value.strip("'\""))


def _redact_pairs(text: str) -> str:
    """A text in which the value of every ``name=value``, ``name: value`` and ``--name value`` is hidden."""
    parts, end = [], 0
    for match in NAME.finditer(text):
        if match.start() < end or not _may_be_secret(match, text):
            continue
        start, stop = _value_span(match, text)
        last = _end_of_words(match, text, start, stop)
        judged = last if text[match.end() - 1] == " " or PASSWORD.search(match["name"]) else stop  # token=5 of 20
        if stop > start and not _is_harmless(match, text, start, judged):
            parts += [text[end:start], REDACTED]
            end = last
    return "".join([*parts, text[end:]])


def _may_be_secret(match: re.Match[str], text: str) -> bool:
    name, sep = match["name"], match["sep"]
    before = text[match.start() - 1] if match.start() else ""
    if before in ("?", "&") and sep == "=" and re.fullmatch(r"(?i)key|sig|signature|code|hmac", name):
        return True
    if not sep:  # two words: after a flag, or a value that is no word
        return is_secret_name(name) and bool(name.startswith("-") or _is_random_after(match, text))
    if sep == ">":  # <password>...</password>
        return before == "<" and (is_certain_name(name) or (is_secret_name(name) and _is_random_after(match, text)))
    if sep == ",":  # ("x-api-key", "...")
        return is_certain_name(name) and (_is_pair(match, text) or _is_random_after(match, text))
    return before != "@" and (is_secret_name(name) or name.lower().endswith(("x-amz-signature", "x-goog-signature")))


def _is_pair(match: re.Match[str], text: str) -> bool:
    """Whether a quoted name and its value are alone in brackets, and the value is no name as well."""
    value = PAIR_END.match(text, match.end())
    is_first = PAIR_START.search(text[max(0, match.start() - 10) : match.start()])
    return bool(is_first and value and not is_secret_name(value[1]))


def _is_random_after(match: re.Match[str], text: str) -> bool:
    """Whether the word after a name has digits and letters, or is quoted after a certain one, or of an ``ENV`` line."""
    value = NEXT_WORD.match(text, match.end())
    if value is None:
        return False
    is_mixed = re.search(r"\d", value[1]) and re.search(r"[A-Za-z]", value[1]) and not CODE.fullmatch(value[1])
    is_quoted = not match["sep"] and value[2] and is_certain_name(match["name"]) and value[0][0] in "'\""
    return bool(is_mixed or is_quoted or text[max(0, match.start() - 4) : match.start()] == "ENV ")


def _value_span(match: re.Match[str], text: str) -> tuple[int, int]:
    """The first and last index of the value after a name: quoted, of a header, or up to what ends a bare value."""
    start = match.end()
    if (opened := QUOTE.match(text, start)) is not None:
        mark = opened.group().lstrip("bfruBFRU")
        if mark == text[match.start() - 1 : match.start()] and not match["closed"]:  # of "api_key=", without a value
            return start, start
        stop = text.find(mark, opened.end())
        while stop > 0 and len(mark) == 1 and _is_escaped(text, stop):
            stop = text.find(mark, stop + 1)
        line_end = text.find("\n", opened.end(), stop if stop > 0 else len(text))
        return opened.end(), line_end if line_end > 0 else stop if stop > 0 else len(text)
    is_header = re.search(r"(?i)(?:authorization|cookie)$", match["name"])
    if is_header or text[match.start() - 1 : match.start()] == ";":
        value = (HEADER_VALUE if is_header else BETWEEN_SEMICOLONS).match(text, start)
        return start, value.end() if value else start
    if match["sep"] == ">":
        return start, max(start, text.find("</", start, start + MAX_HARMLESS))
    bare = BARE.match(text, start)
    return start, bare.end() if bare else start


def _end_of_words(match: re.Match[str], text: str, start: int, stop: int) -> int:
    """Where the last word of an unquoted value ends, behind ``api_key=``, ``token=`` and ``password: ``.

    A parameter of an address has one word. So has a value in prose: ``no API key: set one``, ``the secret: he paid``.
    """
    name, is_spaced = match["name"], text[match.end() - 1] == " "
    in_address = text[match.start() - 1 : match.start()] in ("?", "&") or "%" in (match["sep"] or "%")
    if start > match.end() or in_address or " " in name or (is_spaced and not is_certain_name(name)):
        return stop
    behind = WORDS_BEHIND.match(text, stop)
    return behind.end() if behind else stop


def _is_escaped(text: str, index: int) -> bool:
    """Whether the character is behind an odd number of backslashes; at most eight are looked at."""
    before = text[max(0, index - 8) : index]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _is_harmless(match: re.Match[str], text: str, start: int, stop: int) -> bool:
    name, value = match["name"], text[start:stop]
    if len(value) > MAX_HARMLESS:  # a bound of the time, too
        return False
    if HARMLESS_VALUE.fullmatch(value):
        return not (is_certain_name(name) and value.isdigit() and len(value) >= MIN_LENGTH)
    if start > match.end():  # quoted
        return (
            " " in value.strip() and not is_certain_name(name) and bool(re.search(r"(?i)(key|token|sig|pat)\d*$", name))
        )
    if not match["sep"]:  # of a flag
        return False
    spaced = text[match.end() - 1] in " \t"
    if CODE.fullmatch(value) or value.strip(".").rpartition(".")[2].strip("_*").lower() in match["name"].lower():
        return True
    if is_certain_name(name) and " " not in name:
        return False
    is_member = re.search(r"[{,]\s{0,4}$", text[max(0, match.start() - 6) : match.start()])
    return len(value) < 3 or (spaced and not is_member and not looks_random(value))


def looks_random(value: str) -> bool:
    """Whether a word is none of a language: it has digits among letters, changes of case, or is very long."""
    mixed = re.search(r"\d", value) and re.search(r"[A-Za-z]", value)
    return bool(mixed) or len(value) >= 24 or bool(re.search(r"[a-z][A-Z].*[a-z][A-Z]|\w[=_/~+]\w", value))


def _redact_form(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 24) : match.start()]
    is_hash = len(match.group()) == 40 and re.search(r"(?i)(commit|revision|rev|sha1?|hash|oid)\W*$", before)
    return match.group() if is_hash else REDACTED


def _redact_private_keys(text: str) -> str:
    return PRIVATE_KEY.sub(REDACTED, text) if "PRIVATE KEY" in text or "Private-Lines" in text else text


def _redact_field(match: re.Match[str]) -> str:
    if not is_secret_name(match[2]) or HARMLESS_VALUE.fullmatch(match[3]):
        return match.group()
    return match.group().removesuffix(match[3]) + REDACTED


def _redact_bearer(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{REDACTED}" if looks_random(match[3]) else match.group()


def _redact_address(match: re.Match[str]) -> str:
    scheme, rest = match.groups()
    userinfo = USER_INFO.match(rest)
    if not userinfo or userinfo.group() in USER_NAMES:
        return match.group()
    user_info, at = userinfo.group(), "%40" if userinfo.group().lower().endswith("%40") else "@"
    further = rest.rfind("@", userinfo.end())  # a password with an @ in it
    if further > 0 and at == "@" and not re.search(r"[/?#]", rest[userinfo.end() : further]):
        return f"{scheme}{REDACTED}{rest[further:]}"
    return f"{scheme}{REDACTED}{at}{rest[len(user_info) :]}"
