"""Which names are those of secrets, and which texts have the form of one: the tables of ``r1.core.secrets``.

The forms follow the issuers' documentation; detect-secrets and gitleaks keep similar lists. Every regular expression
here is linear: each repetition is possessive or bounded.
"""

from __future__ import annotations

import re
from functools import lru_cache

WORDS = re.compile(r"[a-z0-9]+")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
TRAILING_WORDS = frozenset(
    WORDS.findall("""
    value plain raw base64 b64 old new prod production dev staging live backup data
""")
)
CERTAIN_WORDS = frozenset(
    WORDS.findall("""
    password passwd pwd passphrase passcode secret apikey credential dsn cookie authorization authtoken
    accesstoken secretkey accesskey accountkey privatekey clientsecret webhook sshpass pgpass dbpass userpass
    jwt requirepass psk
""")
)
NAME_ENDINGS: tuple[str, ...] = ("password", "passwd", "passphrase", "apikey", "secretkey", "privatekey")
TOKEN_KINDS = ("auth", "access", "api", "bearer", "bot", "csrf", "id", "refresh", "session", "xsrf")
NAME_ENDINGS += tuple(f"{kind}token" for kind in TOKEN_KINDS)
PHRASES = frozenset(
    [
        "webhook url",
        "connection string",
        "conn string",
        "conn str",
        "set cookie",
        "sas url",
        "database url",
        "pass word",
        "seed phrase",
        "recovery phrase",
        "oauth signature",
    ]
)
WEAK_WORDS = frozenset(["token", "pass", "pw", "auth", "sig", "pat", "bearer", "sas"])  # these have other meanings, too
NOT_BEFORE = {  # a word that is no secret after one of these
    "token": frozenset(
        WORDS.findall("""
    pad eos bos cls sep unk mask mask2 total special stop start end begin next prev previous last first image
    video audio num max min per vocab think tool extra other every each any one this added fallback boundary
""")
    ),
    "pass": frozenset(
        WORDS.findall("""
    val test forward backward num max first second by low high
""")
    ),
    "auth": frozenset(["use", "no", "needs", "requires"]),
    "key": frozenset(
        WORDS.findall("""
    public primary foreign sort cache partition group dict hot row index config map hash lookup join metric no
""")
    ),
}
KEY_WORDS = frozenset(
    WORDS.findall("""
    api access private secret account auth service client encryption encrypt decryption signing sign storage ssh
    master license subscription shared session admin deploy server app application rsa gpg tls ssl db database
    consumer host functions aws azure gcp google openai anthropic hf huggingface wandb gemini mistral groq
    cohere together openrouter stripe sendgrid mailgun twilio datadog jwt hmac webhook user team org project
    vault
""")
)
PLURALS = frozenset(
    WORDS.findall("""
    passwords secrets credentials cookies keys dsns webhooks passphrases apikeys jwts pats
""")
)
TOKENS_AFTER = frozenset(
    ["api", "access", "auth", "refresh", "bearer", "session", "secret", "hf"]
)  # other tokens are counted
NOT_SECRET_ENV = frozenset(["PWD", "OLDPWD"])


@lru_cache(4096)
def is_secret_name(name: str) -> bool:
    """Whether a key, header, flag or parameter of this name holds a secret: ``x-api-key``, ``dbPassword2``."""
    if "@" in name.rpartition("/")[2]:  # pass@1
        return False
    words = _words(name)
    if not words:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last in PLURALS:
        last = last[:-1]
    if last in CERTAIN_WORDS or last.endswith(NAME_ENDINGS) or f"{before} {last}" in PHRASES:
        return True
    if last == "tokens":
        return before in TOKENS_AFTER
    if last == "key":
        is_env = name.isupper() and words[-1] == "key" and bool(before)
        return before in KEY_WORDS or (is_env and before not in NOT_BEFORE["key"])
    return last in WEAK_WORDS and before not in NOT_BEFORE.get(last, ()) and not (last == "pat" and not before)


@lru_cache(4096)
def is_certain_name(name: str) -> bool:
    """Whether a secret name has no other meaning: not for ``token``, ``pass``, ``auth``, ``sig``."""
    words = _words(name)
    return is_secret_name(name) and (
        len(words) > 1
        or words[-1] not in {*WEAK_WORDS, "secret", "secrets", "cookie", "cookies", "webhook", "webhooks"}
    )


@lru_cache(4096)
def is_secret_env(name: str) -> bool:
    """Whether an environment variable of this name holds a secret: ``GH_PAT``, ``APP_CREDENTIALS``, ``MY_KEY_2``."""
    return name not in NOT_SECRET_ENV and is_secret_name(name.upper())


def _words(name: str) -> list[str]:
    """The lower-case words of a name in any convention, without numbers and neutral words at its end."""
    words = [word.lower() for word in WORD.findall(name[-100:])]
    while len(words) > 1 and (words[-1].isdigit() or words[-1] in TRAILING_WORDS):
        words.pop()
    return words


FORMS = (  # of whole secrets, each from where a word starts
    r"sk-[\w-]{16,}+",  # OpenAI, Anthropic, OpenRouter, DeepSeek
    r"hf_\w{16,}+|api_org_\w{16,}+",  # Hugging Face
    r"gh[pousr]_\w{20,}+|github_pat_\w{20,}+",
    r"gl[a-z]{2,6}-[\w.-]{16,}+",  # GitLab
    r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{12,}+",  # AWS
    r"AIza[\w-]{30,}+|ya29\.[\w.-]{20,}+|GOCSPX-[\w-]{20,}+",  # Google
    r"xox[a-z]-[\w-]{10,}+|xapp-[\w-]{10,}+",  # Slack
    r"npm_\w{20,}+|pypi-[\w-]{30,}+|rubygems_\w{20,}+|dckr_[a-z]{2,4}_[\w-]{20,}+",
    r"[sprw][kh](?:sec)?_(?:live|test)_\w{8,}+|whsec_[\w+/=]{16,}+",  # Stripe
    r"gsk_\w{20,}+|nvapi-[\w-]{20,}+|r8_\w{20,}+|xai-\w{20,}+|pplx-\w{20,}+|csk-\w{20,}+|fw_\w{20,}+",
    r"tgp_v1_[\w-]{20,}+|lsv2_[a-z]{2}_\w{20,}+|pcsk_\w{20,}+|jina_\w{20,}+|tvly-[\w-]{16,}+|wandb_v1_\w{16,}+",
    r"dapi[0-9a-f]{32}(?:-\d)?|hv[sbr]\.[\w-]{20,}+|sbp_[0-9a-f]{20,}+|do[opr]_v1_[0-9a-f]{32,}+",
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|lin_api_\w{20,}+|ntn_\w{30,}+|figd_[\w-]{20,}+|PMAK-[\w-]{20,}+|tskey-[\w-]{16,}+",
    r"SG\.[\w-]{16,}+\.[\w-]{16,}+|key-[0-9a-z]{32}|[0-9a-f]{32}-us\d{1,2}|(?:SK|AC)[0-9a-f]{32}|sq0[a-z]{3}-[\w-]{20,}+",
    r"AT(?:ATT|CTT)3[\w=-]{20,}+|AGE-SECRET-KEY-1[0-9A-Z]{20,}+|\d{8,10}:[\w-]{35}",
    r"[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,}+",  # Discord
    r"eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]*+){0,3}",  # JWT, JWE
    r"HRKU-[\w-]{30,}+|\w{3}\dQ~[\w.~-]{31,}+|LTAI\w{16,}+|AKID\w{32,}+|ABSK[\w+/=]{40,}+",  # Heroku, other clouds
    r"amzn\.mws\.[\w-]{36}|EAA[A-Za-z0-9]{30,}+|EAACEdEose0cBA\w{8,}+|A{20}[\w%]{40,}+|AAAA[\w-]{7}:APA91b[\w-]{40,}+",
    r"sess-\w{30,}+|secret_[A-Za-z0-9]{40,}+|pat\w{14}\.[0-9a-f]{40,}+|rpa_\w{30,}+|fc-[0-9a-f]{32}|ls__\w{20,}+",
    r"sntry[su]_[\w+/=]{20,}+|gl(?:sa|c)_[\w+/=]{20,}+|NR(?:AK|JS|II|AL)-[\w-]{20,}+|dt0c01\.\w{20,}+\.\w{40,}+|ph[cx]_\w{30,}+",
    r"\w{14}\.atlasv1\.[\w-]{60,}+|pul-[0-9a-f]{40}|pscale_\w{2,5}_[\w.-]{20,}+|xkeysib-[\w-]{40,}+|sgp_\w{30,}+|ATBB\w{28,}+",
    r"4/0A[\w-]{20,}+|1//0[\w-]{20,}+|A3-\w{6}-\w{6,}+-[\w-]{20,}+|ops_eyJ\w{20,}+|oy2[a-z0-9]{43}|EZ[AT]K\w{50,}+",
    r"access_token\$production\$[\w$]{40,}+|EAAA[\w-]{60}|sl\.[\w-]{100,}+|CLOJARS_\w{50,}+|pnu_\w{30,}+|shippo_\w{4}_\w{30,}+",
    r"(?<![/@.-])[0-9a-f]{40}",  # W&B
)
FORM = re.compile(rf"(?<![\w-])(?:{'|'.join(FORMS)})(?!\w)|(?<=_)(?:gh[pousr]_\w{{20,}}+|hf_\w{{30,}}+)")
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----.*?(?:-----END [A-Z0-9 ]{0,60}-----|\Z)"
    r"|(?<=Private-Lines: )\d++\n.*?(?:\nPrivate-MAC|\Z)",  # PuTTY
    re.DOTALL,
)
WEBHOOK = re.compile(
    r"(hooks\.slack\.com/(?:services|workflows)/|discord(?:app)?\.com/api/webhooks/|\.webhook\.office\.com/webhookb2/"
    r"|outlook\.office\.com/webhook/|hooks\.zapier\.com/hooks/catch/|/open-apis/bot/v2/hook/|maker\.ifttt\.com/trigger/"
    r"|api\.telegram\.org/bot)(?=\w)[^\s'\"<>]++",
    re.IGNORECASE,
)
# Authorization schemes in a text; that the word after one looks random is checked separately
BEARER = re.compile(r"\b(bearer|basic)((?:\s|%20|\+){1,4}+)([\w.~+/=%-]{6,}+)", re.IGNORECASE)
# of an address, all up to the next address, blank or quote; it may be URL-quoted
ADDRESS = re.compile(r"(:(?://|\\/\\/)|%3a%2f%2f)((?:(?!:(?://|\\/\\/)|%3a%2f%2f)[^\s'\"<>`|])++)", re.IGNORECASE)
# the password in an address may hold / ? # and @: it ends at the last @ before a host
USER_INFO = re.compile(r"[^/?#@]*+@|[^/?#@:]*+:(?!\d*+(?:[/?#]|$))[^@]*+@|(?:(?!%40|%2f)[^/@])*+%40", re.IGNORECASE)
USER_NAMES = ("git@", "root@", "anonymous@")  # who logs in without a password in the address
# of commands and calls: the secret is the second group
PASSWORD_OF = re.compile(
    r"(\bsshpass[ ]+-p[ ]?|\bredis-cli\b[^\n;|]{0,200}?[ ]-a[ ]+|\blogin\((?:[^()\n]{0,100},)?[ ]?key[ ]?=[ ]?b?['\"]"
    r"|\blogin\b[^\n;|]{0,200}?[ ]-p[ ]+|\bmysql\w{0,10}[ ][^\n;|]{0,200}?[ ]?-p(?=\w)"
    r"|\bcurl\b[^\n;|]{0,200}?[ ](?:-u|--user|--proxy-user)[ =]+['\"]?[^\s:'\"]{1,100}:|[ ]-pass(?:in|out)?[ ]+pass:"
    r"|\bauth['\"]?[ ]?[=:][ ]?[(\[]['\"][^'\"\n]{0,100}['\"],[ ]?b?['\"])([^\s'\"]++)"
)
# a name in one field and its value in the next: {"name": "API_KEY", "value": "..."}; the second group is the name
NAME_FIELD = re.compile(
    r"(\b(?:name|key)['\"\\]{0,8}[ ]?[=:][ ]?['\"\\]{0,8})([\w.-]{1,100}+)['\"\\]{0,8}[\s,]{1,20}['\"\\]{0,8}"
    r"value['\"\\]{0,8}[ ]?[=:][ ]?['\"\\]{0,8}([^\s'\"\\]++)",
    re.IGNORECASE,
)
