"""Hosts, addresses, URLs and paths: only those that the configuration names stay, and folders of programs.

Whatever reads as a name with dots is a host unless the program itself writes it (`vocabulary`). A host of one word is
seen only where its place says so: in a URL, after `@` or two slashes, before `:/` or a port, after `host=`.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from site_agent.bundle.held import SIGNS, Held
from site_agent.bundle.vocabulary import is_own

LOCAL = {"localhost", "localhost.localdomain", "127.0.0.1", "0.0.0.0", "::1"}  # noqa: S104  names of this machine
_OWN_URI = re.compile(r"\bspiffe://[\w.-]{1,253}(?:/[\w.-]{1,63}){0,3}(?![\w./@:-])")
_URL = re.compile(
    r"\b([A-Za-z][A-Za-z0-9+.-]{0,19}):(?:\\{0,8}/){2,3}((?:[^\s/]{0,256}@)?[^\s'\"<>`/?#\\]*+)([^\s'\"<>`]*+)"
)
_NO_WORD = r"\s'\"(),;:=\[\]{}<>|`"
_PART = rf"[^{_NO_WORD}/\\]++(?:[ ][^{_NO_WORD}/\\]{{1,64}}){{0,4}}"
_PATH = re.compile(rf"(?<=['\"])/[^'\"\n]*+(?=['\"])|(?<![\w./<>{SIGNS}-])/{{1,2}}(?:{_PART}/++)*+[^{_NO_WORD}/]*+")
_WINDOWS = re.compile(
    r"(?:\b[A-Za-z]:\\++|\\\\++)(?:[^\s'\"<>|\\]++(?:[ ][^\s'\"<>|\\]{1,64}){0,4}\\++)*+[^\s'\"<>|\\]*+"
)
_REMOTE = re.compile(rf"(?<![\w.-])(?![\d.]++:)[\w.-]++:/(?!/)[^{_NO_WORD}]*+")
_AT = re.compile(r"(?<![^\s'\"<>])[^\s@'\"<>]++(?:@[^\s@'\"<>]++)+")
_UID = re.compile(r"(?<![\d.])\d++(?:\.\d++){4,}+")
_IPV4 = re.compile(r"(?<!\d)(?<!\d\.)\d{1,3}(?:\.\d{1,3}){3}(?!\d|\.\d)")
_COLONS = re.compile(r"(?<![0-9A-Za-z])(%5[Bb]|)([0-9A-Fa-f:.]{2,}+)(%25\w++|%(?!5[Dd])\w++)?(?![0-9A-Za-z_])")
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")
_DASHED_MAC = re.compile(r"\b(?:[0-9A-Fa-f]{2}-){5}[0-9A-Fa-f]{2}\b")
_HOST_WORD = r"(?i:host(?:[ _-]?name)?|server|peer|proxy|realm|domain|node|computer|workstation)"
_HOST_FIELD = re.compile(rf"(?:[\w.-]{{0,40}}[_.-])?{_HOST_WORD}")
_NAMED = re.compile(
    rf"(\b{_HOST_WORD}"
    r"['\"\\]{0,8}[ \t]{0,4}[:=][ \t]{0,4}['\"\\]{0,8})([A-Za-z0-9][\w.-]*+)"
)
_WITH_PORT = re.compile(r"(?<![\w.-])(?=[\w-]*[A-Za-z])(?=[\w-]*[\d-])[\w-]++:\d{2,5}\b")
_DOTTED = re.compile(r"(?<![\w.-])[\w-]++(?:\.[\w-]++)+(\(?)")
_NUMBERS = re.compile(r"(?:\.\d+)+\Z")
_KNOWN = re.compile(
    r"/(?:usr/(?:local/)?(?:lib|lib64|bin|sbin)|lib|lib64|bin|sbin|proc|sys|opt/fedmepd|etc/fedmepd)/[\w./+-]*"
    r"|/dev/(?:null|shm|nvidia[\w-]*)"
)


class Whereabouts:
    """What may stay of a machine's surroundings.

    Args:
        hosts: Hosts and addresses that may stay.
        places: What to call folders of this machine, by their path; of those called `<cohort>` nothing below stays.
    """

    def __init__(self, hosts: Iterable[str], places: Mapping[Path, str]) -> None:
        self._hosts = {host.lower() for host in hosts if host} | LOCAL
        known = "|".join(re.escape(host) for host in sorted(self._hosts, key=len, reverse=True))
        self._stays = re.compile(rf"(?<![\w.:@-])(\[?)(?:{known})(\]?)(?::\d{{1,5}})?(?![\w:-]|\.\w)", re.IGNORECASE)
        chosen = sorted(((str(path), word) for path, word in places.items()), key=lambda one: -len(one[0]))
        prefixes = [(prefix, "<python>") for prefix in (sys.prefix, sys.base_prefix) if prefix.count("/") > 1]
        below = rf"(?:/(?:{_PART}/++)*+[^{_NO_WORD}/]*+)?"
        self._places = [
            (re.compile(rf"(?<![\w./-]){re.escape(path)}{below if word == '<cohort>' else ''}(?![\w.-])"), word)
            for path, word in (*chosen, *prefixes)
        ]

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts that stay, in lower case."""
        return frozenset(self._hosts)

    def own(self, text: str, held: Held) -> str:
        """Hold what stays: the agent's folders by their names, identities."""
        for pattern, word in self._places:
            text = pattern.sub(held.keep(word), text)
        return _OWN_URI.sub(lambda found: held.keep(found[0]), text)

    def urls(self, text: str, held: Held) -> str:
        """Take users, strange hosts, paths and queries out of URLs, and hold the hosts that stay."""
        text = _URL.sub(lambda found: held.keep(self._url(found)), text)
        return self._stays.sub(lambda found: held.keep(found[0]), text)

    def paths(self, text: str, held: Held) -> str:
        """Take paths away, but for those of programs."""
        text = _WINDOWS.sub(held.keep("<path>"), text)
        text = _REMOTE.sub(held.keep("<host>:<path>"), text)
        return _PATH.sub(lambda found: held.keep(_path(found[0])), text)

    def strangers(self, text: str, held: Held) -> str:
        """Take hosts and addresses away."""
        text = _AT.sub(lambda found: held.keep(self._after_at(found[0], held)), text)
        text = _UID.sub(held.keep("<uid>"), text)
        address = held.keep("<address>")
        text = _COLONS.sub(lambda found: _colons(found, address), _DASHED_MAC.sub(address, text))
        text = _IPV4.sub(address, text)
        text = _NAMED.sub(rf"\1{held.keep('<host>')}", text)
        text = _DOTTED.sub(lambda found: _dotted(found, held), text)
        return _WITH_PORT.sub(held.keep("<host>"), text)

    def host(self, key: str, value: object) -> str | None:
        """Return what stays of a field that is named as one with a host in it, else nothing."""
        one_word = isinstance(value, str) and not re.search(r"\s|://|\A<.*>\Z", value)
        return self._host(str(value)) if one_word and _HOST_FIELD.fullmatch(key) else None

    def _host(self, authority: str) -> str:
        name, _, port = authority.rpartition(":") if re.search(r":\d+\Z", authority) else (authority, "", "")
        kept = (name or authority).strip("[]").lower() in self._hosts
        return f"{name}{':' if port else ''}{port}" if kept else "<host>"

    def _url(self, found: re.Match[str]) -> str:
        scheme, authority, rest = found.groups()
        user, at, host = authority.rpartition("@")
        place = self._host(host) if host else ""
        return f"{scheme}://{'<user>@' if at or user else ''}{place}{'/<path>' if rest.strip('/') else rest[:1]}"

    def _after_at(self, text: str, held: Held) -> str:
        host, slash, _ = held.back(text.rpartition("@")[2]).partition("/")
        return f"<user>@{self._host(host.rstrip('.,;:'))}{'/<path>' if slash else ''}"


def _path(path: str) -> str:
    """Return what stays of a path."""
    if path == "/":
        return path
    return path if _KNOWN.fullmatch(path) and ".." not in path else "<path>"


def _colons(found: re.Match[str], put: str) -> str:
    """Take away what is an IPv6 or hardware address, with or without a port or a full stop after it."""
    text = found[2]
    if text.count(":") <= 1 or not text.strip(":."):
        return found[0]
    shapes = {text, text.rstrip(":."), text.strip("."), text.rpartition(":")[0], text.lstrip(":")}
    return put if any(map(_is_address, shapes)) else found[0]


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return _MAC.fullmatch(text) is not None
    return True


def _dotted(found: re.Match[str], held: Held) -> str:
    name = found[0].removesuffix("(")
    word = _NUMBERS.sub("", name)
    last = word.rpartition(".")[2]
    if "." not in word or len(last) == 1 or last[0].isdigit() or is_own(word, found[1]):
        return found[0]
    return held.keep("<host>") + found[1]
