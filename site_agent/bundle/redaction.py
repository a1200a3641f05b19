"""Redaction of texts that leave a site: patients become stable pseudonyms, secrets and strangers' names disappear.

Guarantees, for every text that goes through one `Redactor`: no known name of a patient is left, in any case of letters,
nor as JSON or a URL writes it (numbers in texts that equal a patient's are taken for it; numbers in JSON are not), and
the same name becomes the same pseudonym, which nothing in a text can pass for; nothing below the cohort's folder is
left, nor a name of an image file; PEM blocks, tokens, values of the agent's secret variables, users and passwords of
proxies, what a name says is a secret (`confidential`), and what looks like a key are gone; so are paths, and hosts and
addresses that the configuration does not name (`whereabouts`). Hashes are cut to eight digits, overlong lines to 4 KiB;
the time it takes grows with the length of the text alone. It errs on the side of taking too much away. What it cannot
do is `CANNOT_KNOW`, which the bundle's manifest repeats: a person reads the bundle before it is sent.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize
from urllib.parse import quote, unquote

from site_agent.bundle import confidential
from site_agent.bundle.held import Held
from site_agent.bundle.patterns import pattern_of
from site_agent.bundle.whereabouts import Whereabouts

CANNOT_KNOW = (
    "a name or date of birth that is in free text only: in no folder, file name, manifest or table of this site",
    "a known name that is misspelt, abbreviated, split over lines, or a single letter",
    "a known name of fewer than six signs with letters or digits right beside it",
    "a secret of words, or of fewer than 3 signs, that has no name such as `password` before it",
    "a host of one word in free text, without a domain, port, scheme or share beside it",
    "a patient's number as a JSON number in a field that is not named `case`, `patient`, `subject` or `mrn`",
    "parts of relative paths, and words after a space at the end of a path",
    "words in pictures or in encodings other than JSON, URLs and base64",
)
_IMAGE = re.compile(
    r"(?<![^\s'\"(),;:=\[\]{}])[^\s'\"(),;:=\[\]{}]+\.(?i:nii(?:\.gz)?|dcm|dicom|ima|mha|mhd|mgz|nrrd|img|hdr)\b"
)
_ITEM = r"(?=[^\s'\",:;()\[\]{}]*\d|[A-ZÀ-Þ])[^\s'\",:;()\[\]{}]++"
_CASE = re.compile(
    r"(\b(?i:(?:case|patient|subject)s?(?:[ _]?id)?|such as|mrn)\b['\"\\]{0,8}(?:[ ]?[:=][ ]?|[ ])[\[('\"\\]{0,8})"
    rf"({_ITEM}(?:['\"\\]{{0,8}}(?:,[ ]?|[ ]and[ ]|[ ]or[ ])['\"\\]{{0,8}}{_ITEM})*+)"
)
_ITEMS = re.compile(_ITEM)
_LIKE_A_CASE = re.compile(r"(?<![\w-])(?i:case|patient|pat|subject|subj|sub)[-_#]?\d[\w-]*+")
_PERSON = re.compile(
    r"(\b(?i:patient'?s?[ _]?(?:name|birth\w*|sex|age|address|comments?)|date of birth|birth[ _]?date|dob|geb)\b"
    r"['\"\\]{0,8}[ ]?[:=. ][ ]?['\"\\]{0,8})[^\s,;'\"\\][^,;'\"\\\n]*+"
)
_DICOM_NAME = re.compile(r"(?<![\w^])\w[\w-]*+(?:\^+[\w-]++)+\^*")
_CASE_FIELD = re.compile(
    r"(?i)(case|patient|subject)_?id|case|patient|mrn|patient_?(name|birth\w*|sex|age|address|comments?)|birth_?date|dob"
)
_CASES_FIELD = re.compile(r"(?i)(case|patient|subject)(s|_?ids)")
_MOMENT = re.compile(
    r"^\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?(?!\w)", re.MULTILINE
)
_GERMAN = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"}
_LONGEST = 4096
_UNSURE = 256  # signs before a cut, which may be the beginning of something
_REMEMBERED = 64


class Redactor:
    """Replaces what must not leave.

    Args:
        names: Known names of patients.
        places: What to call folders of this machine, by their path: the cohort's and the agent's own.
        hosts: Hosts and addresses that may stay.
        environment: Of this process, for its secrets.
        urls: URLs of the configuration, for the users and passwords in them.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        places: Mapping[Path, str],
        hosts: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        urls: Iterable[str] = (),
    ) -> None:
        self._known: dict[str, str] = {}
        self._forms: dict[str, str] = {}
        self._short: dict[str, str] = {}
        self._where = Whereabouts(hosts, places)
        stays = self._where.hosts
        words = {**_machine(), **confidential.words(environment or {}, urls)}
        self._words = {word: put for word, put in words.items() if put != "<host>" or word not in stays}
        self._word_pattern = pattern_of(self._words) if self._words else None
        self._learn(names)
        self._case_pattern = pattern_of(self._forms) if self._forms else None

    def text(self, text: str) -> str:
        """Return a text without what must not leave."""
        if (known := self._short.get(text)) is None:
            known = "\n".join(self._pieces(confidential.across_lines(Held.free(text)).split("\n")))
            if len(text) < _REMEMBERED:
                self._short[text] = known
        return known

    def data(self, value: Any) -> Any:
        """Return data for JSON with every text in it redacted, keys and JSON in texts too; numbers stay numbers."""
        if isinstance(value, str):
            return json.dumps(found, ensure_ascii=False) if (found := self._parsed(value)) else self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._field(str(key), item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            before = ("", *value)
            options = (isinstance(word, str) and confidential.is_option(word) for word in before)
            return ["<secret>" if option else self.data(item) for option, item in zip(options, value, strict=False)]
        return value

    # -- pieces -----------------------------------------------------------------------------------------------------

    def _pieces(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield redacted lines: JSON by its fields, overlong ones cut, all others together."""
        others: list[str] = []
        for line in lines:
            start = line.find("{") if len(line) <= _LONGEST else -1
            found = self._parsed(line[start:]) if start >= 0 else None
            if found is None and len(line) <= _LONGEST:
                others.append(line)
                continue
            if others:
                yield self._lines("\n".join(others))
                others = []
            if found is not None:
                yield (self._lines(line[:start]) if start else "") + json.dumps(found, ensure_ascii=False)
            else:
                yield self._lines(line[:_LONGEST])[:-_UNSURE] + f"… <cut: the line has {len(line)} signs>"
        if others:
            yield self._lines("\n".join(others))

    def _parsed(self, text: str) -> Any:
        """Return redacted data if a text is an object as JSON, else nothing."""
        if not text.startswith("{") or len(text) > _LONGEST:
            return None
        with contextlib.suppress(ValueError, RecursionError):
            return self.data(json.loads(text))
        return None

    def _lines(self, text: str) -> str:
        held = Held()
        text = _MOMENT.sub(lambda found: held.keep(found[0]), text)
        text = self._where.own(text, held)
        if self._word_pattern is not None:
            text = self._word_pattern.sub(lambda found: held.keep(self._words.get(found[0].lower(), "<secret>")), text)
        text = confidential.named(self._where.urls(text, held), held)
        text = self._of_patients(text, held)
        text = confidential.drawn(self._where.paths(text, held))
        return held.back(self._where.strangers(text, held))

    def _of_patients(self, text: str, held: Held) -> str:
        def put(name: str) -> str:
            return held.keep(self._pseudonym(held.back(name)))

        if self._case_pattern is not None:
            text = self._case_pattern.sub(lambda found: put(found[0]), text)
        person = held.keep("<person>")
        text = _DICOM_NAME.sub(person, _PERSON.sub(rf"\1{person}", text))
        text = _IMAGE.sub(lambda found: put(found[0].rsplit("/", 1)[-1]), text)
        text = _CASE.sub(lambda found: found[1] + _ITEMS.sub(lambda item: put(item[0]), found[2]), text)
        return _LIKE_A_CASE.sub(lambda found: put(found[0]), text)

    def _field(self, key: str, item: Any) -> Any:
        if item is None or isinstance(item, bool) or item in ("", [], {}):
            return item
        if confidential.is_name(key):
            return "<secret>"
        if _CASE_FIELD.fullmatch(key) and isinstance(item, str | int):
            return self._pseudonym(str(item))
        if _CASES_FIELD.fullmatch(key) and isinstance(item, list):
            return [self._pseudonym(str(one)) if isinstance(one, str | int) else self.data(one) for one in item]
        return self._where.host(key, item) or self.data(item)

    def _learn(self, names: Iterable[str]) -> None:
        """Give every name a pseudonym, and look for it in all ways in which it may be written."""
        for name in names:
            pseudonym = self._pseudonym(name)
            for spelling in _spellings(name):
                for form in (spelling, json.dumps(spelling)[1:-1], quote(spelling)):
                    self._forms.setdefault(form.lower(), pseudonym)

    def _pseudonym(self, name: str) -> str:
        known = self._forms.get(name.lower())
        if known is None:
            plain = normalize("NFC", _plain(name)).casefold()
            known = self._known.setdefault(plain, f"<patient-{len(self._known) + 1}>")
        return known


def _spellings(name: str) -> set[str]:
    """Return a name with composed and decomposed letters, in both cases, and as those without such letters write it."""
    german = "".join(_GERMAN.get(sign, sign) for sign in normalize("NFC", name))
    bare = "".join(sign for sign in normalize("NFKD", name) if not combining(sign))
    shapes = {normalize("NFC", name), normalize("NFD", name), german, bare}
    return {cased for shape in shapes for cased in (shape, shape.lower(), shape.upper())}


def _plain(form: str) -> str:
    """Return a name as it is, from how JSON or a URL writes it."""
    with contextlib.suppress(ValueError):
        form = str(json.loads(f'"{form}"'))
    return unquote(form)


def _machine() -> dict[str, str]:
    """Return the names of this machine and its user."""
    found = {socket.gethostname().lower(): "<this-host>"}
    with contextlib.suppress(KeyError, OSError):
        found[getpass.getuser().lower()] = "<user>"
    plain = {"root", "fedmepd", "fedmepd-agent", "localhost", "agent", "trainer", "coordinator"}
    return {word: put for word, put in found.items() if len(word) > 2 and word not in plain}  # noqa: PLR2004
