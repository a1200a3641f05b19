"""Redaction of texts that leave a site: patients become stable pseudonyms, secrets and strangers' names disappear.

Guarantees, for every text that goes through one `Redactor`: no known name of a patient is left, in any case of letters,
nor as JSON or a URL writes it, and the same name becomes the same pseudonym; nothing below the cohort's folder is left,
nor a name of an image file; passwords, tokens, PEM blocks, values of the agent's secret variables and what looks like a
key are gone; hosts and addresses that the configuration does not name are gone. Hashes are cut to eight digits. It
errs on the side of taking too much away, and cannot know a name that is only ever in free text.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import re
import socket
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any
from unicodedata import normalize
from urllib.parse import quote, unquote

from site_agent.bundle.patterns import pattern_of

_SHORT_NUMBER = 5  # shorter ones are taken for patients after `case` and in names of files only
_SECRET_VARIABLE = re.compile(r"^FEDMEPD_.*(PASSPHRASE|TOKEN|URL)$|^(https?|all)_proxy$", re.IGNORECASE)
_IMAGE = re.compile(r"[^\s'\"(),;:=\[\]{}]+\.(?:nii(?:\.gz)?|dcm|mha|mhd|nrrd|img|hdr)\b", re.IGNORECASE)
_CASE = re.compile(
    r"(\b(?:case|patient)s?(?:[ _]id)?['\"]?[ :=]+['\"]?)([^\s'\",:;()\[\]{}]*\d[^\s'\",:;()\[\]{}]*)",
    re.IGNORECASE,
)
_PEM = re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)", re.DOTALL)
_TOKEN = re.compile(r"fedmepd1\.[0-9a-z.]{20,}", re.IGNORECASE)
_URL_USER = re.compile(r"(?<=://)[^\s/@'\"]+@")
_NAMED = re.compile(
    r"(\b[\w.-]*(?:pass(?:word|phrase|wd)?|secret|token|authorization|api[_-]?key|credential)[\w.-]*['\"]?\s*[:=]\s*)"
    r"(\"[^\"]*\"|'[^']*'|(?:Basic |Bearer )?[^\s,;}]+)",
    re.IGNORECASE,
)
_HEX = re.compile(r"\b([0-9a-fA-F]{8})[0-9a-fA-F]{8,}\b")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
_MAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_ADDRESS = re.compile(
    r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)|(?<![\w:])(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F:]{1,19}"
)
_HOST = re.compile(
    r"(?<![\w./@-])[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24}(?![\w.-])"
)
_PATH = re.compile(r"(?<![\w./<>-])/(?:[^\s'\"(),:;=\[\]{}<>/]+/)*[^\s'\"(),:;=\[\]{}<>/]+/?")
_ENDINGS = (
    "py pyc so log json jsonl toml pem key csr pub csv txt md bin safetensors gz tar html png lock service sock begun"
)
_KNOWN_ENDINGS = set(_ENDINGS.split())
_DOMAINS = set("com org net edu gov int mil info health hospital local lan home corp intern internal example".split())  # noqa: SIM905  a list of words
_COUNTRY = 2
_KNOWN_PATHS = ("/usr/", "/lib", "/bin/", "/sbin/", "/proc/", "/sys/", "/dev/", "/opt/fedmepd", "/etc/fedmepd")
_MOSTLY_RANDOM = 0.3
_LOCAL = {"localhost", "localhost.localdomain", "127.0.0.1", "0.0.0.0", "::1"}  # noqa: S104  names of this machine


class Redactor:
    """Replaces what must not leave.

    Args:
        names: Known names of patients.
        places: What to call folders of this machine, by their path: the cohort's and the agent's own.
        hosts: Hosts and addresses that may stay.
        environment: Of this process, for its secrets.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        places: Mapping[Path, str],
        hosts: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._known: dict[str, str] = {}
        self._case_pattern: re.Pattern[str] | None = None
        self._places = sorted(((str(path), word) for path, word in places.items()), key=lambda one: -len(one[0]))
        self._hosts = {host.lower() for host in hosts} | _LOCAL
        self._modules = _modules()
        self._words = {**_secrets(environment or {}), **_machine(self._hosts)}
        self._learn(names)

    def text(self, text: str) -> str:
        """Return a text without what must not leave."""
        text = _PEM.sub("<pem>", text)
        for word, put in self._words.items():
            text = re.sub(re.escape(word), put, text, flags=re.IGNORECASE)
        text = _TOKEN.sub("<token>", _URL_USER.sub("<user>@", text))
        text = _NAMED.sub(r"\1<secret>", text)
        text = self._of_places(self._of_patients(text))
        text = _IMAGE.sub(lambda found: self._pseudonym(found[0].rsplit("/", 1)[-1]), text)
        text = _CASE.sub(lambda found: found[1] + self._pseudonym(found[2]), text)
        text = _PATH.sub(self._path, text)
        text = _HEX.sub(r"\1…", text)
        text = _BASE64.sub(_random, text)
        text = _MAIL.sub("<mail>", text)
        text = _ADDRESS.sub(lambda found: found[0] if found[0].lower() in self._hosts else "<address>", text)
        return _HOST.sub(self._host, text)

    def data(self, value: Any) -> Any:
        """Return data for JSON with every text in it redacted, keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._field(str(key), item) for key, item in value.items()}
        return [self.data(item) for item in value] if isinstance(value, list | tuple) else value

    # -- pieces -----------------------------------------------------------------------------------------------------

    def _field(self, key: str, item: Any) -> Any:
        secret = isinstance(item, str) and item and _NAMED.fullmatch(f"{key}: x") is not None
        return "<secret>" if secret else self.data(item)

    def _learn(self, names: Iterable[str]) -> None:
        """Give every name a pseudonym, and look for it in all ways in which it may be written."""
        forms: set[str] = set()
        for name in names:
            self._pseudonym(name)
            if not (name.isdigit() and len(name) < _SHORT_NUMBER):
                shapes = {
                    normalize(kind, case) for kind in ("NFC", "NFD") for case in (name, name.lower(), name.upper())
                }
                written = {form for shape in shapes for form in (shape, json.dumps(shape)[1:-1], quote(shape))}
                forms |= {form.lower() for form in written}
        if forms:
            self._case_pattern = pattern_of(forms)

    def _pseudonym(self, name: str) -> str:
        if found := re.match(r"case-\d+(?!\w)", name):
            return found[0]
        return self._known.setdefault(normalize("NFC", name).casefold(), f"case-{len(self._known) + 1}")

    def _of_patients(self, text: str) -> str:
        if self._case_pattern is None:
            return text
        return self._case_pattern.sub(lambda found: self._pseudonym(_plain(found[0])), text)

    def _of_places(self, text: str) -> str:
        for path, word in self._places:
            rest = r"(?:/[^\s'\"(),;:\[\]{}]*)?" if word == "<cohort>" else r"(?![\w.-])"
            text = re.sub(re.escape(path) + rest, word, text)
        return text

    def _path(self, found: re.Match[str]) -> str:
        path = found[0]
        return path if path.startswith((*_KNOWN_PATHS, sys.prefix, sys.base_prefix)) else "<path>"

    def _host(self, found: re.Match[str]) -> str:
        name = found[0].lower()
        ending, first = name.rpartition(".")[2], name.partition(".")[0]
        stays = name in self._hosts or ending in _KNOWN_ENDINGS or first in self._modules
        is_host = name.count(".") > 1 or len(ending) == _COUNTRY or ending in _DOMAINS
        return "<host>" if is_host and not stays else found[0]  # `metrics.listen` is a key, `round.declined` an action


def _plain(form: str) -> str:
    """Return a name as it is, from how JSON or a URL writes it."""
    with contextlib.suppress(ValueError):
        form = json.loads(f'"{form}"')
    return unquote(form)


def _random(found: re.Match[str]) -> str:
    """Take away what looks drawn at random: many capitals and digits; paths and words do not."""
    text = found[0]
    odd = sum(sign.isupper() or sign.isdigit() for sign in text)
    return "<key>" if odd >= _MOSTLY_RANDOM * len(text) and any(map(str.isalpha, text)) else text


@functools.cache
def _modules() -> frozenset[str]:
    return frozenset(name.lower() for name in (*sys.stdlib_module_names, *packages_distributions()))


def _secrets(environment: Mapping[str, str]) -> dict[str, str]:
    values = (value for name, value in environment.items() if _SECRET_VARIABLE.match(name) and len(value) > 3)  # noqa: PLR2004
    return dict.fromkeys(values, "<secret>")


def _machine(hosts: set[str]) -> dict[str, str]:
    """Return the names of this machine and its user, unless the configuration names them."""
    found = {socket.gethostname(): "<this-host>"}
    with contextlib.suppress(KeyError, OSError):
        found[getpass.getuser()] = "<user>"
    plain = {"root", "fedmepd", "localhost"}
    return {word: put for word, put in found.items() if len(word) > 3 and word.lower() not in plain | hosts}  # noqa: PLR2004
