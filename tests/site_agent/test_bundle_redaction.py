"""Redaction against hostile texts: each leak that was ever found is planted, and looked for in the whole bundle."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import time

import pytest

from protos.findings import warn
from site_agent import bundle
from site_agent.bundle import gather
from site_agent.bundle.redaction import CANNOT_KNOW, Redactor
from site_agent.bundle.vocabulary import is_own
from site_agent.config import load_config

CONFIGURED = {"fed.example.org", "proxy.example.org"}
PROXY_USER, PROXY_WORD = "jdoe", "pa%40ss-w"
ENVIRONMENT_USER, ENVIRONMENT_WORD = "maxm", "s3same"
SHORT_IDS = ("0012", "0013", "418")

# What a log says, and what of it may not be anywhere in the bundle.
LEAKS = {
    # patients that look like pseudonyms, and short numbers
    "case-0017 has no label": "0017",
    "case case-0018 has no label": "0018",
    "case-7-Mueller and <patient-1> differ": "7-Mueller",
    "cases 0012, 0013 lack a label": "0013",
    "entries cannot be read, such as 0012": "0012",
    "see 418/t1 and (418)": "418",
    '{"skipped": ["0012", "0013"], "case_id": 77219, "cases": [66105]}': "77219",
    'trainer: {"cases": [66106], "note": "ok"}': "66106",
    "patients 'Ab9', 'Xy8' and Zz7": "Xy8",
    "case Meyerhoff cannot be read": "Meyerhoff",
    "1.2.840.113619.2.55.3 in a header": "113619",
    "PatientName: Elsa Bachmann, PatientBirthDate=19560312": "Bachmann",
    "0010,0010 Bauer^Elfriede^^Dr": "Elfriede",
    "Patient's Name: Fuchs; born": "Fuchs",
    '{"PatientName": "Ganz", "birth_date": "19560313"}': "Ganz",
    "reason='failed:\\n0013 lacks' in x%200012.txt": "0013 lacks",
    # hosts
    "GET https://pacs.hospital-west.de/wado?studyUID=1 failed": "hospital-west",
    "GET https://user:pw@pacs2.hospital-west.de:8443/x failed": "pacs2",
    "opened file:///srv/raw/Kuehn/scan": "Kuehn",
    "mounted smb://filer7/neuro/Lang": "filer7",
    r"at \\filer8\neuro\Brandt\scan.log": "Brandt",
    r"at \\filer9\share name\x": "filer9",
    r"at C:\Users\Lindner\scan.log": "Lindner",
    "mail via email.charite.de: refused": "charite",
    "mail via email.charite2.de(25)": "charite2",
    "no route to pacs.klinik-nord": "klinik-nord",
    "mounted nas-radiology:/export/neuro": "nas-radiology",
    "as root@nas-neuro and admin@nas-neuro2:/x": "nas-neuro",
    "peer [fe80::1ff:fe23:4567:890a]:443": "fe80",
    "peer 2001:db8::8a2e:370:7334.": "370:7334",
    "peer ipv6:%5B2001:db9::17%5D:443": "db9",
    "peer ::ffff:10.9.8.7 and 10.9.8.6:104, v10.9.8.5": "10.9.8",
    "link 00:1A:2B:3C:4D:5E up": "1A:2B",
    "tcp pacs.lokal.443 and ris-west:104 answered": "ris-west",
    "could not resolve host: kisserver1": "kisserver1",
    '{"event": "no answer", "hostname": "kisserver2"}': "kisserver2",
    "https%3A%2F%2Fris.hospital-ost.de%2Fx": "hospital-ost",
    "found /usr/share/../../srv/Krueger/x": "Krueger",
    "read '/mnt/two words/last part' now": "last part",
    "read /mnt/two words/Steiner/x now": "Steiner",
    # secrets
    r'{"event": "{\"password\": \"hunter2\", \"n\": 1}"}': "hunter2",
    r'cut {"event": "{\"password\": \"hunter3\", \"n': "hunter3",
    r'x {"a": "{\"b\": \"{\\\"token\\\": \\\"hunter4\\\"}\"}': "hunter4",
    r'password = "ab\"cdefgh"': "cdefgh",
    "password = 'ab''ijklmn op'": "ijklmn",
    "run --passphrase hunter5 now": "hunter5",
    "argv ['--api-key', 'hunter6']": "hunter6",
    '{"argv": ["--password", "hunter7"]}': "hunter7",
    "secret = '''first\nhunter8\nlast'''": "hunter8",
    'PASSWORD="first\nhunter9"': "hunter9",
    "token: |\n  hunter10\n  more\nend": "hunter10",
    "password: correct horse battery": "horse",
    "GET /wado?sig=hunter11&key=hunter12": "hunter12",
    "GET ?x=1&sig=hunter13": "hunter13",
    '{"password": 773311, "credentials": {"x": "hunter14"}}': "hunter14",
    "<wsse:Password>hunter18</wsse:Password>": "hunter18",
    "curl -u someone:hunter15 x": "hunter15",
    "Proxy-Authorization: Digest username=a, response=hunter16": "hunter16",
    f"login of {PROXY_USER} with pa@ss-w": "pa@ss-w",
    f"login as {PROXY_USER.upper()} by {PROXY_WORD}": PROXY_USER.upper(),
    f"{ENVIRONMENT_USER}/{ENVIRONMENT_WORD} at squid7 said 407": ENVIRONMENT_WORD,
    "by squid7 no, by ris.intra9 yes": "squid7",
    "ris.intra9": "intra9",
    "MIIEow+tail==\n-----END RSA PRIVATE KEY-----": "MIIEow",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter17\n": "hunter17",
    f"{'x' * 3900} {'y' * 190} Zimmermann{'z' * 5000}": "Zimmer",
}
ALSO_GONE = (
    *SHORT_IDS,
    "19560312",
    "19560313",
    "66105",
    "773311",
    "Ab9",
    "Zz7",
    "neuro/Lang",
    PROXY_USER,
    ENVIRONMENT_USER,
    "hunter",
    "filer",
)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of an agent whose log says all of it, and whose patients have short numbers."""
    monkeypatch.setenv("https_proxy", f"http://{ENVIRONMENT_USER}:{ENVIRONMENT_WORD}@squid7:3128")
    monkeypatch.setenv("NO_PROXY", "localhost,.ris.intra9")
    monkeypatch.setattr(gather, "_journal", lambda: "\n".join(LEAKS))
    for name in SHORT_IDS:
        (tmp_path / "cohort" / name).mkdir(parents=True)
    (tmp_path / "data" / "logs").mkdir(parents=True)
    for number, text in enumerate(LEAKS):
        (tmp_path / "data" / "logs" / f"{number:03d}.log").write_text(f"{text}\n")
    file = tmp_path / "agent.toml"
    file.write_text(
        '[agent]\ndata = "data"\ncoordinator = "fed.example.org:8443"\n'
        '[cohort]\npath = "cohort"\nmodalities = ["t1"]\n'
        f'[proxy]\nurl = "http://{PROXY_USER}:{PROXY_WORD}@proxy.example.org:3128"\n'
    )
    return load_config(file)


@pytest.fixture
def whole(site, tmp_path):
    findings = [warn("rights", "2 entries cannot be read, such as 0012"), warn("case 0013", "labels [4], 0013 twice")]
    entries = bundle.collect(site, findings, ())
    bundle.write(entries, tmp_path / "b.tar.gz")
    return gzip.decompress((tmp_path / "b.tar.gz").read_bytes())


def content_of(whole):
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        return {
            one.name.removeprefix("fedmepd-support/"): archive.extractfile(one).read().decode()
            for one in archive.getmembers()
        }


def test_nothing_that_was_planted_is_in_the_bundle(whole):
    texts = {name: text for name, text in content_of(whole).items() if name not in ("versions.json", "manifest.json")}
    said = "\n".join(texts.values())
    assert "cannot be read" in said
    assert all(word in text for text, word in LEAKS.items()), "what is looked for was planted"
    found = [word for word in (*LEAKS.values(), *ALSO_GONE) if word.lower() in without_facts(said).lower()]
    assert found == []
    words = [word for word in (*LEAKS.values(), *ALSO_GONE) if len(word) > 4 and not word.replace(".", "").isdigit()]
    assert [word for word in words if word.encode() in whole] == [], "in names and headers of the archive"


def without_facts(said):
    """Return what was said without JSON numbers, which are facts of the bundle and stay."""
    return re.sub(r'(?m)^\s*"[\w <>./-]+": \d+,?$', "", said)


def test_hosts_of_the_configuration_and_structure_stay(whole):
    texts = content_of(whole)
    configuration = json.loads(texts["configuration.json"])
    assert configuration["agent"]["coordinator"] == "fed.example.org:8443"
    assert configuration["proxy"]["url"] == "http://<user>@proxy.example.org:3128"
    assert configuration["metrics"]["listen"] == "127.0.0.1:9465"
    assert json.loads(texts["machine.json"])["memory"]["MemTotal in kB"] > 0
    assert json.loads(texts["manifest.json"])["cannot_know"] == list(CANNOT_KNOW)


def test_versions_and_sizes_stay_where_patients_have_such_numbers(site, monkeypatch):
    monkeypatch.setattr("site_agent.bundle.gather.version", lambda _: "12.13.1")
    for name in ("12", "13", "1", "5"):
        (site.cohort.path / name).mkdir()
    (site.data / "five").write_bytes(b"12345")
    entries = {entry.name: json.loads(entry.content) for entry in bundle.collect(site, (), ()) if "json" in entry.name}
    assert entries["versions.json"]["torch"] == "12.13.1"
    assert {"name": "five", "bytes": 5} in entries["files.json"]


@pytest.mark.parametrize(
    "text",
    [
        "2030-01-12T12:13:14.5Z round of fed.example.org:8443 via http://proxy.example.org:3128",
        "torch.cuda.OutOfMemoryError: CUDA out of memory",
        '  File "/usr/lib/python3.11/json/decoder.py", line 355, in decode',
        "monai.transforms.LoadImage(keys) in std::vector, c10::Error",
        "[::1]:9465 and 127.0.0.1:9465 listen",
        '{"event": "trained", "seconds": 12.5, "cases": 40, "passed": true}',
        "agent.toml, policy.toml, foo.cpp:123; pid 1234; libcudart.so.11: cannot open",
    ],
)
def test_what_helps_stays(text):
    assert Redactor(["12", "40", "355x"], places={}, hosts=CONFIGURED).text(text) == text


def test_only_what_was_issued_is_a_pseudonym():
    redactor = Redactor(["Anna"], places={})
    assert redactor.text("case Anna") == "case <patient-1>"
    assert redactor.text("case case-1") == "case <patient-2>"
    assert redactor.text("case-1 of Anna") == "<patient-2> of <patient-1>"
    assert redactor.text("case-\U000f0000 of \U000f0001") == "case-\ufffd of \ufffd", "signs of the text are no pieces"


def test_a_name_with_other_letters_is_the_same_patient():
    redactor = Redactor(["Jörg Groß"], places={})
    assert redactor.text("JOERG GROSS, Jorg Groß, J\\u00f6rg Gro\\u00df") == "<patient-1>, <patient-1>, <patient-1>"


def test_the_rest_of_a_line_and_the_next_line_stay_beside_a_secret():
    redactor = Redactor([], places={})
    assert redactor.text("passphrase = 'a b'; opened x\nnext") == "passphrase = '<secret>'; opened x\nnext"
    assert redactor.text("user=a password=b c=d\nnext") == "user=a password=<secret> c=d\nnext"
    assert redactor.text("<Token>a b</Token> c\n<secret> d") == "<Token><secret></Token> c\n<secret> d"


def test_json_stays_json():
    text = json.dumps({"event": "a", "password": 'q"', "inner": json.dumps({"token": "b", "n": 12}), "x": [0.5, None]})
    said = json.loads(Redactor(["12"], places={}).text(text))
    assert said == {"event": "a", "password": "<secret>", "inner": '{"token": "<secret>", "n": 12}', "x": [0.5, None]}


def test_names_of_the_program_end_like_no_domain():
    assert is_own("metrics.listen", " ")
    assert not is_own("email.charite.de", "(")
    assert not is_own("pacs.klinik", "(")
    assert not is_own("fedmepd.klinik", ":")


HOSTILE = (
    *("ab-c.", "a", "é", " ", "\n", "a\n", "A1b2", "0012", "Patient-0", "\U000f0000"),
    *("password", "password=", "password='", 'token=\\"', "--", "'''", "secret: |\n a\n", "-----BEGIN A-----", "?a="),
    *("/", "/a ", "/mnt/a b", "\\\\a", "x://", "x:/", "a@", "user:x@", "host:", ":", "f:", "00:", "1."),
    *("case 1, ", "case-", "{", '{"a":', "[", "{}\n", '{"a":"b.c"}\n'),
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_grows_with_the_length_alone(piece):
    redactor = Redactor([f"Patient-{number:05d}" for number in range(500)] + ["0012"], places={}, hosts=CONFIGURED)
    redactor.text("warm.up")
    text = (piece * (1 + (256 << 10) // len(piece)))[: 256 << 10]
    for shape in (text, "\n".join(text[start : start + 4000] for start in range(0, len(text), 4000))):
        began = time.process_time()
        redactor.text(shape)
        assert time.process_time() - began < 10, "processor time; it takes about a second"
