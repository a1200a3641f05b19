"""What looks like a secret, however it is written: named values, options, headers, queries, PEM, tokens, random keys.

A value in quotes ends where they are closed, across lines and however deep they are escaped; one without quotes goes
to the end of its line or to the next `name=`. What is named nowhere and is not random cannot be known for a secret.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, unquote

from site_agent.bundle.held import Held

_WORD = (
    r"(?i:pass(?:word|phrase|wd|code|wort)|kennwort|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|credential|session[_-]?id|(?<![A-Za-z])(?:pass|pin|pw|sig|signature)(?![A-Za-z]))"
)
_NAME = rf"{_WORD}[\w.-]{{0,40}}"
_KEY = re.compile(rf"[\w.-]{{0,80}}?(?:{_WORD}|(?i:authorization|cookie))[\w.-]{{0,40}}")
_OPTION = re.compile(rf"--?[\w-]{{0,40}}?{_NAME}")
_SETS = r"['\"\\]{0,16}[ \t]{0,8}[:=][ \t]{0,8}+"
_TRIPLE = re.compile(rf"({_NAME}{_SETS})(\"\"\"|''').*?(?:\2|\Z)", re.DOTALL)
_BLOCK = re.compile(rf"({_NAME}[ \t]{{0,8}}:[ \t]{{0,8}})[|>][+-]?\d?[ \t]*+(?:\n[ \t]++[^\n]*+)+")
_CLOSED = r".{0,2000}?(?<!\\)(?P=open)"
_VALUE = rf"(?P<open>\\{{0,16}}['\"]){_CLOSED}(?:(?P=open){_CLOSED})*+[\w!@#$%^&*+/.=-]*+"
_QUOTED = re.compile(rf"(?P<name>{_NAME}{_SETS}){_VALUE}", re.DOTALL)
_PLAIN = re.compile(
    rf"({_NAME}{_SETS})(?!\\{{0,16}}['\"]<secret>)(?:\\{{0,16}}['\"].*|.+?(?=[ \t][\w.-]{{1,40}}=|$))", re.MULTILINE
)
_GIVEN = re.compile(
    rf"((?<![\w-])--?[\w-]{{0,40}}?{_NAME}['\"]?[ \t,=]{{1,8}})(?:\"[^\"\n]*+\"?|'[^'\n]*+'?|[^\s'\"]++)"
    r"|((?<!\S)(?:-u|--user)[ =])\S++"
)
_HEADER = re.compile(r"((?i:authorization|cookie|authenticate)['\"\\]{0,16}[ \t]{0,8}[:=]).+")
_SCHEME = re.compile(r"\b((?i:bearer|basic|negotiate|ntlm)[ \t]{1,4})[A-Za-z0-9+/=._~-]{8,}+")
_ELEMENT = re.compile(rf"(<(?!secret>)[\w:.-]{{0,40}}?{_NAME}>)[^<\n]++")
_QUERY = re.compile(r"([?&][\w.%-]{1,60}=)[^\s&'\"#]++")
_PEM = re.compile(r"-{4,5} ?BEGIN [A-Z0-9 ]{1,60}-{4,5}.*?(?:-{4,5} ?END [A-Z0-9 ]{1,60}-{4,5}|\Z)", re.DOTALL)
_PEM_END = re.compile(r"(?:^[A-Za-z0-9+/=]{1,76}\r?\n)?-----END [A-Z0-9 ]{1,60}-----", re.MULTILINE)
_TOKEN = re.compile(
    r"(?i:fedmepd1\.[0-9a-z.]{20,})|eyJ[\w-]{10,}+(?:\.[\w-]++){0,2}|gh[pousr]_\w{20,}|AKIA[0-9A-Z]{16}"
)
_HEX = re.compile(r"\b([0-9a-fA-F]{8})[0-9a-fA-F]{8,}+\b")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}+={0,2}")
_LONG_KEY = 32
_MOSTLY_RANDOM = 0.3
_VARIABLE = re.compile(r"(?i).*(?:PASS(?:WORD|PHRASE|WD)?|TOKEN|SECRET|API_?KEY|CREDENTIALS?)")
_URLS = re.compile(r"(?i).*(?:_proxy|_URL|_URI|_DSN)")
_SHORTEST = 3


def across_lines(text: str) -> str:
    """Return a text without the secrets that may span lines; JSON stays JSON."""
    text = _PEM_END.sub("<pem>", _PEM.sub("<pem>", text))
    text = _TRIPLE.sub(r'\1"<secret>"', text)
    text = _BLOCK.sub(r'\1"<secret>"', text)
    return _QUOTED.sub(r"\g<name>\g<open><secret>\g<open>", text)


def named(text: str, held: Held) -> str:
    """Return a text without what is named as a secret on its line."""
    secret = held.keep("<secret>")
    text = _TOKEN.sub(held.keep("<token>"), text)
    text = _HEADER.sub(rf"\1 {secret}", text)
    text = _GIVEN.sub(lambda found: (found[1] or found[2]) + secret, text)
    text = _PLAIN.sub(rf"\1{secret}", _ELEMENT.sub(rf"\1{secret}", text))
    return _QUERY.sub(rf"\1{secret}", _SCHEME.sub(rf"\1{secret}", text))


def drawn(text: str) -> str:
    """Return a text with hashes cut to eight digits, and without what looks drawn at random."""
    return _BASE64.sub(_random, _HEX.sub(r"\1…", text))


def is_name(key: str) -> bool:
    """Tell whether a field's name says that it holds a secret."""
    return _KEY.fullmatch(key) is not None


def is_option(word: str) -> bool:
    """Tell whether a word of a command line says that the next one is a secret."""
    return _OPTION.fullmatch(word) is not None


def words(environment: Mapping[str, str], urls: Iterable[str]) -> dict[str, str]:
    """Return what is secret here wherever it stands, in lower case, and what to put for it.

    Args:
        environment: Of this process: secret variables, and users, passwords and hosts of the URLs in it.
        urls: URLs of the configuration: their users and passwords.
    """
    found: dict[str, str] = {}
    for name, value in environment.items():
        if _VARIABLE.fullmatch(name):
            found.update(_forms(value, "<secret>"))
        if _URLS.fullmatch(name):
            for one in value.split(",") if name.lower() == "no_proxy" else (value,):
                found.update(_forms(_host(one), "<host>"))
                found.update(_logins(one))
    for url in urls:
        found.update(_logins(url))
    return found


def _host(url: str) -> str:
    """Return the host of a URL, of `host:port`, or of an entry of `no_proxy`."""
    host = (url.partition("://")[2] or url).rpartition("@")[2].partition("/")[0].strip(" .*")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _logins(url: str) -> Iterator[tuple[str, str]]:
    """Yield user and password of a URL, as they are written, as they are meant, and as a header says them."""
    login, at, _ = (url.partition("://")[2] or url).rpartition("@")
    user, _, password = login.partition(":")
    if at:
        both = f"{unquote(user)}:{unquote(password)}".encode()
        yield from _forms(base64.b64encode(both).decode().rstrip("="), "<secret>")
        yield from _forms(unquote(user), "<user>")
        yield from _forms(user, "<user>")
        yield from _forms(unquote(password), "<secret>")
        yield from _forms(password, "<secret>")


def _forms(word: str, put: str) -> Iterator[tuple[str, str]]:
    if len(word) >= _SHORTEST:
        yield from ((form.lower(), put) for form in (word, json.dumps(word)[1:-1], quote(word, safe="")))


def _random(found: re.Match[str]) -> str:
    """Take away what looks drawn at random: many capitals and digits; paths and words do not."""
    text = found[0]
    odd = sum(sign.isupper() or sign.isdigit() for sign in text)
    kinds = (str.isupper, str.islower, str.isdigit) if len(text) < _LONG_KEY else (str.isalpha,)
    return "<key>" if odd >= _MOSTLY_RANDOM * len(text) and all(any(map(kind, text)) for kind in kinds) else text
